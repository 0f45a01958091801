"""Arithmetic, comparisons, conversions and moves: an instruction for all threads at once.

Each function gets the registers and an instruction and returns what executes it under a mask.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.gpu.emulator.memory import Array
from tests.gpu.emulator.program import Instruction, bits_of
from tests.gpu.emulator.registers import Mask, Registers, type_of
from tests.gpu.emulator.values import (
    bfloat16_of,
    float32_of_bfloat16,
    tf32_of,
)

Step = Callable[[Mask], Any]
_WIDER = {16: 32, 32: 64}


def elementwise(registers: Registers, one: Instruction, function: Any, kind: str) -> Step:
    """Operands and the result have one type."""
    target = registers.target(one.operands[0], kind)
    sources = [registers.source(operand, kind) for operand in one.operands[1:]]
    if isinstance(function, np.ufunc) and target.dtype == type_of(kind):
        return lambda mask: function(*sources, out=target, where=mask)
    return lambda mask: np.copyto(target, function(*sources), where=mask, casting="unsafe")


def _fused(a: Array, b: Array, c: Array) -> Array:
    wide = np.longdouble if c.dtype == np.float64 else np.float64
    return np.multiply(a, b, dtype=wide) + c


def _divide(a: Array, b: Array) -> Array:
    """Towards zero; what is divided by zero has all bits set."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    quotient = a // safe
    if a.dtype.kind == "i":
        quotient = quotient + ((a % safe != 0) & ((a < 0) != (safe < 0)))
    return np.where(b == 0, b.dtype.type(0) - b.dtype.type(1), quotient)


_FLOATS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "min": np.fmin,
    "max": np.fmax, "neg": np.negative, "abs": np.abs, "fma": _fused, "mad": _fused,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "rcp": lambda x: 1 / x, "ex2": np.exp2,
    "lg2": np.log2, "copysign": lambda a, b: np.copysign(b, a),
}  # fmt: skip
_WHOLE: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum, "neg": np.negative,
    "abs": np.abs, "div": _divide, "rem": lambda a, b: a - b * _divide(a, b),
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
_LOGICAL = {"and": np.logical_and, "or": np.logical_or, "xor": np.not_equal, "not": np.logical_not}


def arithmetic(registers: Registers, one: Instruction) -> Step:
    kind, name = one.options[-1], one.name
    if kind == "pred":
        return elementwise(registers, one, _LOGICAL[name], kind)
    if "x2" in kind:
        return _packed(registers, one)
    if kind[0] == "f":
        function = _FLOATS[name]
        if name == "rcp" and "approx" in one.options and kind == "f64":
            function = _rough_reciprocal
        return elementwise(registers, one, function, kind)
    if name in ("mul", "mad"):
        return _product(registers, one)
    return elementwise(registers, one, _WHOLE[name], kind)


def _rough_reciprocal(x: Array) -> Array:
    """Only the upper half of the bits is right."""
    return ((1 / x).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def _packed(registers: Registers, one: Instruction) -> Step:
    """Two values of 16 bits in a register, such as s16x2."""
    kind = np.dtype({"s": np.int16, "u": np.uint16, "f": np.float16}[one.options[-1][0]])
    target = registers.target(one.operands[0], "b32")
    sources = [registers.source(operand, "b32") for operand in one.operands[1:]]
    function = (_FLOATS if kind.kind == "f" else _WHOLE)[one.name]

    def step(mask: Mask) -> None:
        parts = [np.array(np.broadcast_to(s, target.shape)).view(kind) for s in sources]
        np.copyto(target, function(*parts).astype(kind).view(np.uint32), where=mask)

    return step


def _product(registers: Registers, one: Instruction) -> Step:
    kind, bits = one.options[-1], bits_of(one.options[-1])
    if "wide" in one.options:
        wide = f"{kind[0]}{_WIDER[bits]}"
        target, dtype = registers.target(one.operands[0], wide), type_of(wide)
        a, b = (registers.source(operand, kind) for operand in one.operands[1:3])
        c = registers.source(one.operands[3], wide) if one.name == "mad" else dtype.type(0)
        return lambda mask: np.add(
            np.multiply(a, b, dtype=dtype, casting="unsafe"), c, out=target, where=mask
        )
    if "hi" in one.options:
        return elementwise(registers, one, _high_of(kind), kind)
    if one.name == "mul":
        return elementwise(registers, one, np.multiply, kind)
    return elementwise(registers, one, lambda a, b, c: np.multiply(a, b) + c, kind)


def _high_of(kind: str) -> Callable[..., Array]:
    bits, dtype = bits_of(kind), type_of(kind)

    def high(a: Array, b: Array, c: Any = None) -> Array:
        a, b = np.broadcast_arrays(a, b)
        result = np.array(
            [((int(x) * int(y)) >> bits) & ((1 << bits) - 1) for x, y in zip(a, b, strict=True)],
            f"u{bits // 8}",
        ).view(dtype)
        return result if c is None else result + c

    return high


def shift(registers: Registers, one: Instruction) -> Step:
    """Shifts by as many bits as there are, or more, give 0 or the sign."""
    kind, bits = one.options[-1], bits_of(one.options[-1])
    target = registers.target(one.operands[0], kind)
    value, count = registers.source(one.operands[1], kind), registers.source(one.operands[2], "u32")
    left, signed = one.name == "shl", kind[0] == "s" and one.name == "shr"
    unsigned = np.dtype(f"u{bits // 8}")

    def step(mask: Mask) -> None:
        by = np.minimum(count, np.uint32(bits - 1)).astype(unsigned).view(type_of(kind))
        found = value << by if left else value >> by
        if not signed:
            found = np.where(count >= bits, type_of(kind).type(0), found)
        np.copyto(target, found, where=mask, casting="unsafe")

    return step


_COMPARISONS: dict[str, Any] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal,
}  # fmt: skip


def _comparison(name: str, is_float: bool) -> Callable[[Array, Array], Array]:
    if name in ("num", "nan"):
        nan = lambda a, b: np.isnan(a) | np.isnan(b)  # noqa: E731
        return nan if name == "nan" else lambda a, b: ~nan(a, b)
    if is_float and len(name) == 3:  # true of NaN
        return lambda a, b: _COMPARISONS[name[:2]](a, b) | np.isnan(a) | np.isnan(b)
    if is_float and name == "ne":
        return lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)
    return _COMPARISONS[name]


def compare(registers: Registers, one: Instruction) -> Step:
    kind = one.options[-1]
    function = _comparison(one.options[0], kind[0] == "f")
    a, b = (registers.source(operand, kind) for operand in one.operands[1:3])
    names = [name.strip() for name in one.operands[0].split("|")]
    targets = [registers.target(name, "pred") for name in names]
    join: Any = _LOGICAL.get(one.options[1]) if len(one.options) > 1 else None
    if join is None and len(targets) == 1 and isinstance(function, np.ufunc):
        return lambda mask: function(a, b, out=targets[0], where=mask)
    third = predicate(registers, one.operands[3]) if join else None

    def step(mask: Mask) -> None:
        found = function(a, b)
        for target, value in zip(targets, (found, ~found), strict=False):
            np.copyto(target, join(value, third()) if join else value, where=mask)

    return step


def predicate(registers: Registers, operand: str) -> Callable[[], Array]:
    """A predicate, or its negation, as `!p`."""
    source = registers.source(operand.lstrip("!"), "pred")
    return (lambda: ~source) if operand.startswith("!") else (lambda: source)


def select(registers: Registers, one: Instruction) -> Step:
    kind = one.options[-1]
    target = registers.target(one.operands[0], kind)
    a, b = (registers.source(operand, kind) for operand in one.operands[1:3])
    which = predicate(registers, one.operands[3])
    return lambda mask: np.copyto(target, np.where(which(), a, b), where=mask, casting="unsafe")


def move(registers: Registers, one: Instruction) -> Step:
    kind, (to, given) = one.options[-1], one.operands
    if to.startswith("{"):
        parts = [name.strip() for name in to.strip("{} ").split(",")]
        width = bits_of(kind) // len(parts)
        source = registers.source(given, f"b{bits_of(kind)}")
        targets = [(i, registers.target(p, f"b{width}")) for i, p in enumerate(parts) if p != "_"]
        mask_of = source.dtype.type((1 << width) - 1)

        def unpack(mask: Mask) -> None:
            values = [(source >> source.dtype.type(i * width)) & mask_of for i, _ in targets]
            for (_, target), value in zip(targets, values, strict=True):
                np.copyto(target, value, where=mask, casting="unsafe")

        return unpack
    target = registers.target(to, kind)
    if given.startswith("{"):
        names = [name.strip() for name in given.strip("{} ").split(",")]
        width = bits_of(kind) // len(names)
        sources = [registers.source(name, f"b{width}") for name in names]
        dtype = np.dtype(f"u{bits_of(kind) // 8}")

        def pack(mask: Mask) -> None:
            value = dtype.type(0)
            for i, source in enumerate(sources):
                value = value | source.astype(dtype) << dtype.type(i * width)
            np.copyto(target.view(dtype), value, where=mask)

        return pack
    source = registers.source(given, kind)
    return lambda mask: np.copyto(target, source, where=mask, casting="unsafe")


def convert(registers: Registers, one: Instruction) -> Step:
    to, given = one.options[-2:]
    if "x2" in to:
        target = registers.target(one.operands[0], "b32")
        high, low = (registers.source(operand, given) for operand in one.operands[1:3])
        narrow: Any = bfloat16_of if to == "bf16x2" else (
            lambda x: x.astype(np.float16).view(np.uint16)
        )  # fmt: skip

        def pair(mask: Mask) -> None:
            value = narrow(low).astype(np.uint32) | narrow(high).astype(np.uint32) << np.uint32(16)
            np.copyto(target, value, where=mask)

        return pair
    source = registers.source(one.operands[1], given)
    target = registers.target(one.operands[0], "b32" if to == "tf32" else to)
    dtype, whole = type_of("b32" if to == "tf32" else to), to[0] in "su"
    rounding: Any = next(
        (f for name, f in (("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil))
         if name in one.options), np.trunc)  # fmt: skip

    def step(mask: Mask) -> None:
        value = float32_of_bfloat16(source) if given == "bf16" else source
        if to == "tf32":
            value = tf32_of(value)
        elif to == "bf16":
            value = bfloat16_of(value.astype(np.float32))
        elif whole and value.dtype.kind == "f":
            limits = np.iinfo(dtype)
            wide = np.nan_to_num(rounding(value.astype(np.longdouble)))
            value = np.clip(wide, limits.min, limits.max).astype(dtype)
        else:
            value = value.astype(dtype)
        np.copyto(target, value, where=mask, casting="unsafe")

    return step
