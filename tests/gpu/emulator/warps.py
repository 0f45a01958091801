"""Instructions by which the threads of a warp exchange values."""

from functools import cache
from typing import Any

import numpy as np

from tests.gpu.emulator.arithmetic import Step, predicate
from tests.gpu.emulator.memory import Array, Fault
from tests.gpu.emulator.program import Instruction
from tests.gpu.emulator.registers import LANES, Mask, Registers

_LANE = np.arange(LANES)


def shuffle(registers: Registers, one: Instruction) -> Step:
    """shfl.sync: from the lane above, below, of a number, or of a flipped number."""
    names = [name.strip() for name in one.operands[0].split("|")]
    target = registers.target(names[0], "b32")
    inside = registers.target(names[1], "pred") if len(names) > 1 else None
    value, by = registers.source(one.operands[1], "b32"), registers.source(one.operands[2], "u32")
    bounds = registers.source(one.operands[3], "u32")
    mode, threads = one.options[1], registers.threads
    varies = isinstance(by, np.ndarray) or isinstance(bounds, np.ndarray)

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "shfl.sync")
        if not len(warps):
            return
        given = value[warps]
        if varies:
            counts, limits = (np.broadcast_to(x, threads)[warps].astype(np.int64)
                              for x in (by, bounds))  # fmt: skip
            first = int(counts[0, 0]), int(limits[0, 0])
        else:
            first = int(by), int(bounds)
        if varies and ((counts != first[0]).any() or (limits != first[1]).any()):
            source, ok = _sources(mode, counts, limits)
            target[warps] = np.take_along_axis(given, source, 1)
        else:
            source, ok = _same_sources(mode, *first)
            target[warps] = given[:, source]
        if inside is not None:
            inside[warps] = ok

    return step


@cache
def _same_sources(mode: str, count: int, bound: int) -> tuple[Array, Array]:
    """`_sources` where all lanes have the same operands."""
    return _sources(mode, np.int64(count), np.int64(bound))


def _sources(mode: str, count: Array, bound: Array) -> tuple[Array, Array]:
    """The lane that each lane reads, itself where that is out of its segment, and whether not."""
    segment, clamp, count = bound >> 8 & 31, bound & 31, count & 31
    low, high = _LANE & segment, (_LANE & segment) | (clamp & ~segment)
    if mode == "up":
        source, ok = _LANE - count, _LANE - count >= high
    else:
        by_mode = {"down": _LANE + count, "bfly": _LANE ^ count, "idx": low | count & ~segment}
        source = by_mode[mode]
        ok = source <= high
    return np.where(ok, source, _LANE), ok


def vote(registers: Registers, one: Instruction) -> Step:
    source, mode = predicate(registers, one.operands[1]), one.options[1]
    target = registers.target(one.operands[0], "b32" if mode == "ballot" else "pred")

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "vote.sync")
        votes = np.broadcast_to(source(), registers.threads)[warps]
        if mode == "ballot":
            target[warps] = np.packbits(votes, 1, "little").view(np.uint32)
        else:
            found = {"any": votes.any(1), "all": votes.all(1)}[mode]
            target[warps] = found[:, None]

    return step


_REDUCTIONS: dict[str, Any] = {
    "add": lambda x: x.sum(1, dtype=x.dtype),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(1),
    "or": lambda x: np.bitwise_or.reduce(x, 1),
    "and": lambda x: np.bitwise_and.reduce(x, 1),
    "xor": lambda x: np.bitwise_xor.reduce(x, 1),
}


def reduce(registers: Registers, one: Instruction) -> Step:
    """redux.sync."""
    function, kind = _REDUCTIONS[one.options[1]], one.options[-1]
    target, source = (
        registers.target(one.operands[0], kind),
        registers.source(one.operands[1], kind),
    )

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "redux.sync")
        target[warps] = function(source[warps])[:, None]

    return step


def elect(registers: Registers, one: Instruction) -> Step:
    """elect.sync: the first lane of a warp."""
    names = [name.strip() for name in one.operands[0].split("|")]
    leader, target = registers.target(names[0], "b32"), registers.target(names[1], "pred")

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "elect.sync")
        leader[warps] = 0
        target[warps] = _LANE == 0

    return step


def active(registers: Registers, one: Instruction) -> Step:
    """activemask."""
    target = registers.target(one.operands[0], "b32")

    def step(mask: Mask) -> None:
        here = np.broadcast_to(mask, registers.threads).reshape(-1, LANES)
        found = np.packbits(here, 1, "little").view(np.uint32)
        np.copyto(target, np.repeat(found, LANES), where=mask)

    return step


def same(values: Array, what: str) -> int:
    """A value that all threads must agree on."""
    if (values != values[0]).any():
        raise Fault(f"{what} differs between threads that execute it together")
    return int(values[0])
