"""Runs the clusters of a grid, several at a time and in a random order."""

import itertools
import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tests.gpu.emulator.block import Block
from tests.gpu.emulator.clusters import Cluster
from tests.gpu.emulator.memory import Fault, Memory
from tests.gpu.emulator.program import Program

_TOGETHER = 3  # blocks that run at the same time, if they have atomic operations; or a cluster more


class Mode(NamedTuple):
    """Whether copies, products and relaxed writes take place as late as possible, or at once."""

    late_copies: bool = True
    late_products: bool = True
    late_writes: bool = True


@lru_cache(16)  # a block takes 5 to 20 MB
def _prepared(program: Program, threads: int, shared: int, mode: Mode) -> list[Block]:
    """The blocks of a kernel, of which there are as many as have run at a time."""
    return []


def launch(
    program: Program,
    memory: Memory,
    arguments: list[bytes],
    grid: tuple[int, int, int],
    threads: int,
    shared: int = 0,
    mode: Mode = Mode(),  # noqa: B008 - it is a constant
    cluster: int = 1,
) -> None:
    """Run a kernel; `arguments` are the bytes of each parameter, `shared` is dynamic memory.

    Each `cluster` blocks next to each other are a cluster.
    """
    if len(arguments) < len(program.parameters):
        raise Fault(f"{program.name} has {len(program.parameters)} parameters")
    parameters = {}
    for parameter, given in zip(program.parameters, arguments, strict=False):
        parameters[parameter.name] = given.ljust(parameter.size, b"\0")
    if grid[0] % cluster:
        raise Fault(f"{program.name}: {grid[0]} blocks in clusters of {cluster}")
    firsts = [range(0, grid[0], cluster), *(range(size) for size in grid[1:])]
    waiting = list(itertools.product(*firsts))
    random.shuffle(waiting)
    blocks = _prepared(program, threads, shared, mode)
    together = -(-_TOGETHER // cluster) if program.has_atomics else 1
    wanted = min(len(waiting), together) * cluster
    while len(blocks) < wanted:
        blocks.append(Block(program, threads, shared, mode))
    free, running = blocks[:wanted], []
    with np.errstate(all="ignore"):
        while waiting or running:
            while waiting and len(free) >= cluster:
                group = Cluster([free.pop() for _ in range(cluster)])
                x, *others = waiting.pop()
                for rank, block in enumerate(group.blocks):
                    block.start(memory, parameters, (x + rank, *others), grid, group)
                    running.append((block, block.run()))
            one = random.choice(running)
            if next(one[1], one) is one:
                running.remove(one)
                free.append(one[0])
