"""Asynchronous copies to shared memory: cp.async, and the bulk copies of sm_90 with mbarriers."""

import random
import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tests.gpu.emulator import clusters
from tests.gpu.emulator.arithmetic import Step
from tests.gpu.emulator.memory import WORDS, Array, Fault, Memory
from tests.gpu.emulator.program import Instruction, split
from tests.gpu.emulator.registers import Mask, Registers

_BOX = 128  # bytes of a row of a bulk copy's box, which has the swizzle of 128 bytes


class Copies:
    """Copies in flight. A late one takes place when it is waited for, an early one at once."""

    def __init__(self, registers: Registers) -> None:
        self._registers, self.late = registers, True
        self.clear()

    def clear(self) -> None:
        self._open: list[Any] = []
        self._groups: list[list[Any]] = []
        self.bulk: list[Any] = []  # to this block
        self._arrivals: list[Any] = []  # of other blocks of the cluster
        self.barriers: dict[int, dict[str, int]] = {}

    def start(self, at: Array, size: int, warps: Array, words: Array) -> None:
        self._open.append((at, size, warps, words))
        if not self.late:
            self._registers.shared.words(size)[0][at] = words

    def commit(self) -> None:
        self._groups.append(self._open)
        self._open = []

    def wait(self, left: int) -> None:
        shared = self._registers.shared
        while len(self._groups) > left:
            for at, size, warps, words in self._groups.pop(0):
                if self.late:
                    shared.words(size)[0][at] = words
                shared.arrive(at, size, warps)

    def progress(self) -> bool:
        """Let some bulk copies arrive, or all if they are early; return whether one did."""
        arrived = bool(self._arrivals) and random.random() < 0.5 and self.let_arrive()
        while self.bulk and (not self.late or random.random() < 0.5):
            self.bulk.pop(random.randrange(len(self.bulk)))()
            arrived = True
        return arrived

    def arrive_from(self, origin: Registers, arrival: Any) -> None:
        """Arrive at a barrier of this block, or later if another block does."""
        self._arrivals.append(arrival)
        if origin is self._registers or not self.late:
            self.let_arrive()

    def let_arrive(self) -> bool:
        """Let the threads of other blocks arrive at the barriers of this one."""
        waiting, self._arrivals = self._arrivals, []
        for arrival in waiting:
            arrival()
        return bool(waiting)

    def barrier(self, address: int) -> dict[str, int]:
        if address not in self.barriers:
            raise Fault(f"{self._registers.program.name}: an mbarrier at {address} without init")
        return self.barriers[address]

    def settle(self, barrier: dict[str, int]) -> None:
        if barrier["pending"] < 0:
            raise Fault(f"{self._registers.program.name}: too many arrivals at an mbarrier")
        if barrier["pending"] == 0 and barrier["bytes"] == 0:
            barrier["phase"] += 1
            barrier["pending"] = barrier["count"]

    @property
    def unfinished(self) -> bool:
        """Copies in flight, or bytes that were announced but not copied, or the other way round."""
        announced = any(found["bytes"] for found in self.barriers.values())
        flying = self._open or any(self._groups) or self.bulk or self._arrivals
        return bool(flying or announced)


def copy(registers: Registers, one: Instruction) -> Step:
    """cp.async and its groups."""
    copies = registers.copies
    if "bulk" in one.options:
        return _bulk(registers, one)
    if "wait_group" in one.options:
        left = int(one.operands[0])
        return lambda mask: copies.wait(left)
    if "wait_all" in one.options:
        return lambda mask: (copies.commit(), copies.wait(0))
    if "commit_group" in one.options:
        return lambda mask: copies.commit()
    to, source = registers.address(one.operands[0], "b32"), registers.address(one.operands[1])
    size = int(one.operands[2], 0)
    given = registers.source(one.operands[3], "u32") if len(one.operands) > 3 else np.uint32(size)

    def step(mask: Mask) -> None:
        lanes = registers.active(mask)
        if not len(lanes):
            return
        read = np.broadcast_to(given, registers.threads)[lanes]
        if ((read != 0) & (read != size)).any():
            raise Fault(f"{one.text}: copies of a part are not emulated")
        warps = registers.warp_of[lanes]
        at = registers.shared.claim(to(lanes), size, warps, "cp.async")
        shape = (len(lanes), size // 8) if size > 8 else (len(lanes),)
        words = np.zeros(shape, registers.shared.words(size)[0].dtype)
        some = read > 0
        if some.any():
            words[some] = registers.memory.load(
                source(lanes)[some], size, f"{registers.program.name}: cp.async"
            )
        copies.start(at, size, warps, words)

    return step


def _bulk(registers: Registers, one: Instruction) -> Step:
    """cp.async.bulk.tensor.2d from a tensor map that `tensor_map` made."""
    place, source, bar = one.operands[:3]
    to, barrier = registers.address(place, "b32"), registers.address(bar, "b32")
    name, coordinates = re.fullmatch(r"\[\s*(%[\w@]+)\s*,\s*\{(.*)\}\s*\]", source).groups()
    which = registers.source(name, "u64")
    x, y = (registers.source(part, "s32") for part in split(coordinates))
    multicast = "multicast::cluster" in one.options
    masks = registers.source(one.operands[3], "u16") if multicast else np.uint16(0)

    def step(mask: Mask) -> None:
        for lane in registers.active(mask):
            parameter = registers.program.parameters[int(which[lane]) >> 16 & 0xFFFF].name
            box = Box(*(int(f) for f in np.frombuffer(registers.parameters[parameter], "i8", 7)))
            (rank, where), (other, bar_at) = (
                clusters.split_address(registers, int(f(np.array([lane]))[0]))
                for f in (to, barrier)
            )
            if rank != other:
                raise Fault(f"{registers.program.name}: a bulk copy and its mbarrier in two blocks")
            wanted = int(np.broadcast_to(masks, registers.threads)[lane])
            ranks = [i for i in range(16) if wanted >> i & 1] if multicast else [rank]
            at = box.places(where)
            warps = np.full(at.size, registers.warp_of[lane])
            for block in [registers.cluster.reach(registers, i, bar_at) for i in ranks]:
                places = block.shared.claim(at, 16, warps, "bulk copy")
                block.shared.words(16)[4][places] = True  # fenced: the copy engine writes
                arrive = partial(_arrive, block, box, places, int(x[lane]), int(y[lane]), bar_at)
                block.copies.bulk.append(arrive)

    return step


class Box(NamedTuple):
    """A tensor map: a matrix in memory, and the part of it that a copy takes."""

    base: int
    columns: int
    rows: int
    pitch: int
    box_columns: int
    box_rows: int
    size: int  # bytes of a value

    def places(self, where: int) -> Array:
        """Where the words of 16 bytes of the part are in shared memory, a row after the other."""
        if self.box_columns * self.size != _BOX or where % 1024:
            raise Fault("only boxes of 128 bytes with the swizzle of 128 bytes are emulated")
        at = where + np.arange(0, self.box_rows * _BOX, 16)
        return at ^ ((at >> 7 & 7) << 4)

    def read(self, memory: Memory, x: int, y: int) -> Array:
        """Its bytes, 0 outside of the matrix."""
        word = 1 if (self.columns | x) * self.size % 16 else 16
        row = y + np.arange(self.box_rows)[:, None]
        byte = x * self.size + np.arange(0, _BOX, word)
        inside = (row >= 0) & (row < self.rows) & (byte >= 0) & (byte < self.columns * self.size)
        data = np.zeros((*inside.shape, word // min(word, 8)), WORDS[min(word, 8)])
        if inside.any():
            source = (self.base + row * self.pitch + byte)[inside]
            data[inside] = memory.load(source, word, "bulk copy").reshape(-1, data.shape[2])
        return data


def _arrive(registers: Registers, box: Box, at: Array, x: int, y: int, barrier: int) -> None:
    data = box.read(registers.memory, x, y)
    words, written, *_ = registers.shared.words(16)
    words[at], written[at] = data.reshape(-1).view(np.uint64).reshape(-1, 2), True
    found = registers.copies.barrier(barrier)
    found["bytes"] -= data.nbytes
    registers.copies.settle(found)


def tensor_map(
    address: int, shape: tuple[int, int], pitch: int, box: tuple[int, int], size: int
) -> bytes:
    """What the emulator takes for a CUtensorMap, of a matrix with `pitch` bytes a row."""
    fields = (address, shape[1], shape[0], pitch, box[1], box[0], size)
    return np.array(fields, np.int64).tobytes().ljust(128, b"\0")


def memory_barrier(registers: Registers, one: Instruction) -> Step:
    """mbarrier: init, arrive, expect_tx, try_wait."""
    copies = registers.copies
    if "init" in one.options:
        address, count = (
            registers.address(one.operands[0], "b32"),
            registers.source(one.operands[1], "u32"),
        )

        def init(mask: Mask) -> None:
            lanes = registers.active(mask)
            counts = np.broadcast_to(count, registers.threads)[lanes]
            for at, n in zip(address(lanes), counts, strict=True):
                fields = {"count": int(n), "pending": int(n), "bytes": 0, "phase": 0}
                fields["turn"] = registers.cluster.turn  # of the barrier of the cluster
                copies.barriers[int(at)] = fields

        return init
    if "try_wait" in one.options or "test_wait" in one.options:
        address = registers.address(one.operands[1], "b32")
        target = registers.target(one.operands[0], "pred")
        parity = registers.source(one.operands[2], "u32")

        def try_wait(mask: Mask) -> None:
            lanes = registers.active(mask)
            wanted = np.broadcast_to(parity, registers.threads)[lanes]
            target[lanes] = [
                copies.barrier(int(at))["phase"] & 1 != int(phase)
                for at, phase in zip(address(lanes), wanted, strict=True)
            ]

        return try_wait
    if not {"arrive", "expect_tx"} & set(one.options):
        return lambda mask: None  # inval
    first = 0 if one.operands[0].startswith("[") else 1
    address = registers.address(one.operands[first], "b32")
    adds = "expect_tx" in one.options
    number = registers.source(one.operands[first + 1], "u32") if adds else np.uint32(0)

    def arrive(mask: Mask) -> None:
        lanes = registers.active(mask)
        for at, n in zip(
            address(lanes), np.broadcast_to(number, registers.threads)[lanes], strict=True
        ):
            block, place = registers, int(at)
            if "shared::cluster" in one.options:
                rank, place = clusters.split_address(registers, place)
                block = registers.cluster.reach(registers, rank, place)
            arrival = partial(_count, block.copies, place, int(n), "arrive" in one.options)
            block.copies.arrive_from(registers, arrival)

    return arrive


def _count(copies: Copies, place: int, added: int, arrives: bool) -> None:
    barrier = copies.barrier(place)
    barrier["bytes"] += added
    barrier["pending"] -= arrives
    copies.settle(barrier)


def fence(registers: Registers, one: Instruction) -> Step:
    """Fences: for other blocks, which then see all writes, and for the copy engine's view."""
    if "proxy" in one.options:
        if "async" in one.options or any(part.startswith("async") for part in one.options):
            return lambda mask: registers.shared.fenced.fill(True)
        return lambda mask: None
    if (one.name == "membar" and one.options[0] == "cta") or "cta" in one.options:
        return lambda mask: None
    if "mbarrier_init" in one.options:
        return lambda mask: None
    return lambda mask: registers.flush()
