"""Clusters: blocks that run together and may reach into each other's shared memory."""

from typing import Any

import numpy as np

from tests.gpu.emulator.arithmetic import Step
from tests.gpu.emulator.memory import Fault
from tests.gpu.emulator.program import Instruction
from tests.gpu.emulator.registers import Mask, Registers

_WINDOW = 24  # bits of an address in a block; those above are the block's rank, plus one


class Cluster:
    """The blocks of a cluster, by rank, and the barrier of all their threads.

    `turn` counts how often all have arrived there, `moves` how often any block has moved.
    """

    def __init__(self, blocks: list[Any]) -> None:
        self.blocks, self.turn, self.moves = blocks, 0, 0

    def __len__(self) -> int:
        return len(self.blocks)

    def settle(self) -> None:
        """End a turn if all threads that have not ended have arrived."""
        if not all((b.turns > self.turn)[b.alive].all() for b in self.blocks):
            return
        for block in self.blocks:
            block.shared.barrier()
        self.turn += 1

    def reach(self, origin: Registers, rank: int, barrier: int) -> Any:
        """The block of a rank, in which `origin` is about to use an mbarrier."""
        name = origin.program.name
        if rank >= len(self.blocks):
            raise Fault(f"{name}: block {rank} of a cluster of {len(self.blocks)}")
        block = self.blocks[rank]
        if block is not origin:
            if block.ended:
                raise Fault(f"{name}: reaches into a block of the cluster that has ended")
            if block.copies.barrier(barrier)["turn"] == self.turn:
                raise Fault(
                    f"{name}: an mbarrier of another block, without a barrier of the cluster"
                )
        return block


def split_address(origin: Registers, address: int) -> tuple[int, int]:
    """The rank and the address in its block of a shared::cluster address."""
    rank = (address >> _WINDOW) - 1
    own = origin.cluster.blocks.index(origin)
    return own if rank < 0 else rank, address & (1 << _WINDOW) - 1


def map_address(registers: Registers, one: Instruction) -> Step:
    """mapa: the address in another block of a variable of this one."""
    if one.options[0] != "shared::cluster" or one.options[-1] != "u32":
        raise Fault(f"{registers.program.name}: not emulated: {one.text}")
    target = registers.target(one.operands[0], "u32")
    source, rank = (registers.source(part, "u32") for part in one.operands[1:])

    def step(mask: Mask) -> None:
        ranks = np.broadcast_to(rank, registers.threads)
        if (ranks >= len(registers.cluster))[registers.active(mask)].any():
            raise Fault(f"{registers.program.name}: mapa of a block that is not in the cluster")
        offset = source & np.uint32((1 << _WINDOW) - 1)
        np.copyto(target, offset | ranks + np.uint32(1) << np.uint32(_WINDOW), where=mask)

    return step


def pass_barrier(block: Any, one: Instruction, mask: Mask) -> bool:
    """barrier.cluster: arrive, or wait; return whether the threads may go on."""
    cluster, lanes = block.cluster, block.active(mask)
    if "wait" in one.options:
        return bool((block.turns[lanes] <= cluster.turn).all())
    if (block.turns[lanes] > cluster.turn).any():
        raise Fault(f"{block.program.name}: threads arrive twice at the barrier of a cluster")
    block.turns[lanes] = cluster.turn + 1
    if "relaxed" not in one.options:
        block.flush()
        for other in cluster.blocks:
            other.copies.let_arrive()
    cluster.settle()
    return True
