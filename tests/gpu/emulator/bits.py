"""Instructions on the bits of a register."""

from typing import Any

import numpy as np

from tests.gpu.emulator.arithmetic import Step
from tests.gpu.emulator.memory import Array
from tests.gpu.emulator.program import Instruction, bits_of
from tests.gpu.emulator.registers import Mask, Registers, type_of


def bits(registers: Registers, one: Instruction) -> Step:
    kind = one.options[-1]
    width = bits_of(kind)
    wide = f"b{width}"
    if one.name in ("popc", "clz", "brev", "bfind"):
        target = registers.target(one.operands[0], wide if one.name == "brev" else "b32")
        source = registers.source(one.operands[1], wide)
        function = {"popc": np.bitwise_count, "clz": _leading_zeros, "brev": _reversed}[one.name]
        return lambda mask: np.copyto(target, function(source), where=mask, casting="unsafe")
    target = registers.target(one.operands[0], wide)
    if one.name == "prmt":
        function: Any = _permute
        kinds = [wide] * 3
    elif one.name == "lop3":
        function, kinds = _logic_of(int(one.operands[4], 0)), [wide] * 3
    elif one.name == "shf":
        function = _funnel_of(one.options[0], "clamp" in one.options)
        kinds = [wide, wide, "u32"]
    elif one.name == "bfe":
        function, kinds = _extract_of(kind), [wide, "u32", "u32"]
    else:
        function, kinds = _insert, [wide, wide, "u32", "u32"]
    sources = [registers.source(o, k) for o, k in zip(one.operands[1:], kinds, strict=False)]

    def step(mask: Mask) -> None:
        np.copyto(target, function(*sources), where=mask, casting="unsafe")

    return step


def _leading_zeros(x: Array) -> Array:
    width = 8 * x.dtype.itemsize
    return np.array([width - int(value).bit_length() for value in x], np.uint32)


def _reversed(x: Array) -> Array:
    parts = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)
    mirrored = np.packbits(np.unpackbits(parts, axis=1), axis=1, bitorder="little")
    return np.ascontiguousarray(mirrored[:, ::-1]).view(x.dtype)[:, 0]


def _permute(a: Array, b: Array, selector: Array) -> Array:
    """prmt: each byte of the result is one of eight, or its sign."""
    both = a.astype(np.uint64) | np.asarray(b).astype(np.uint64) << np.uint64(32)
    result: Any = np.uint32(0)
    for i in range(4):
        which = (selector >> np.uint32(4 * i)) & np.uint32(15)
        place = (which & np.uint32(7)).astype(np.uint64) * np.uint64(8)
        value = (both >> place) & np.uint64(255)
        sign = np.where(value & np.uint64(128), np.uint64(255), np.uint64(0))
        value = np.where(which & np.uint32(8), sign, value)
        result = result | value.astype(np.uint32) << np.uint32(8 * i)
    return result


def _logic_of(table: int) -> Any:
    def logic(a: Array, b: Array, c: Array) -> Array:
        result: Any = np.uint32(0)
        for i in range(8):
            if table >> i & 1:
                result = result | (
                    (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
                )
        return result

    return logic


def _funnel_of(direction: str, clamp: bool) -> Any:
    def funnel(low: Array, high: Array, count: Array) -> Array:
        by = np.minimum(count, np.uint32(32)) if clamp else count & np.uint32(31)
        both = np.asarray(low).astype(np.uint64) | np.asarray(high).astype(np.uint64) << np.uint64(
            32
        )
        by = np.asarray(by).astype(np.uint64)
        return ((both << by) >> np.uint64(32) if direction == "l" else both >> by).astype(np.uint32)

    return funnel


def _extract_of(kind: str) -> Any:
    width, dtype = bits_of(kind), type_of("b" + kind[1:])

    def extract(value: Array, start: Array, length: Array) -> Array:
        start, length = (np.minimum(x & np.uint32(255), np.uint32(width)) for x in (start, length))
        # In Python's numbers of NumPy: twice as many bits, so that shifts by all of them are right.
        wide = np.asarray(value).astype(np.uint64 if width == 32 else object)
        field = (wide >> start.astype(wide.dtype)) & ((1 << length.astype(wide.dtype)) - 1)
        if kind[0] == "s":
            last = np.minimum(start + length - np.uint32(1), np.uint32(width - 1))
            sign = (wide >> last.astype(wide.dtype)) & wide.dtype.type(1) if width == 32 else (
                wide >> last.astype(object)) & 1  # fmt: skip
            fill = ((1 << width) - 1) & ~((1 << length.astype(object)) - 1)
            field = np.where((sign == 1) & (length > 0), field.astype(object) | fill, field)
        return field.astype(dtype)

    return extract


def _insert(value: Array, into: Array, start: Array, length: Array) -> Array:
    dtype = np.asarray(into).dtype
    width = 8 * dtype.itemsize
    start, length = (np.minimum(x & np.uint32(255), np.uint32(width)) for x in (start, length))
    field = ((1 << np.asarray(length).astype(object)) - 1) << np.asarray(start).astype(object)
    field = np.asarray(field & ((1 << width) - 1)).astype(dtype)
    moved = np.asarray(value).astype(object) << np.asarray(start).astype(object)
    return (into & ~field) | (np.asarray(moved & ((1 << width) - 1)).astype(dtype) & field)
