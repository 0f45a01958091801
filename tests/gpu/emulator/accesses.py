"""Loads, stores and atomic operations."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.gpu.emulator.arithmetic import Step
from tests.gpu.emulator.memory import WORDS, Array, Fault
from tests.gpu.emulator.program import Instruction, bits_of
from tests.gpu.emulator.registers import (
    LOCAL_WINDOW,
    SHARED_WINDOW,
    Mask,
    Registers,
    type_of,
)

_SPACES = ("global", "shared", "param", "const", "local")


def space_of(one: Instruction) -> str:
    return next((part.split("::")[0] for part in one.options if part.split("::")[0] in _SPACES), "")


def load(registers: Registers, one: Instruction) -> Step:
    space, kind = space_of(one), one.options[-1]
    targets = registers.group(one.operands[0], kind, written=True)
    if space == "param":
        return _load_parameter(registers, one, targets)
    size = bits_of(kind) // 8
    whole, dtype = size * len(targets), type_of(kind)
    address = registers.address(one.operands[1], "b32" if space in ("shared", "local") else "u64")

    def step(mask: Mask) -> None:
        lanes = registers.active(mask)
        if not len(lanes):
            return
        at, where = resolve(space, address(lanes))
        if where == "shared":
            data = registers.shared.load(at, whole, registers.warp_of[lanes])
        elif where == "local":
            data = _words(registers.local[lanes[:, None], at[:, None] + np.arange(whole)], whole)
        else:
            registers.flush(at, whole)
            data = registers.memory.load(at, whole, f"{registers.program.name}: load")
        values = np.ascontiguousarray(data).view(dtype).reshape(len(lanes), -1)
        for i, target in enumerate(targets):
            target[lanes] = values[:, i]

    return step


def _words(data: Array, size: int) -> Array:
    word = min(size, 8)
    return np.ascontiguousarray(data).view(WORDS[word]).reshape(len(data), -1)


def _load_parameter(registers: Registers, one: Instruction, targets: list[Any]) -> Step:
    """From parameters by name, or by an address that the program made of a name and an offset."""
    name, _, offset = one.operands[1].strip("[] ").partition("+")
    name, first, dtype = name.strip(), int(offset or 0), type_of(one.options[-1])
    if name not in registers.registers:

        def step(mask: Mask) -> None:
            found = np.frombuffer(registers.parameters[name][first:], dtype, len(targets))
            for target, value in zip(targets, found, strict=True):
                np.copyto(target, value, where=mask, casting="unsafe")

        return step
    address, names = registers.address(one.operands[1]), registers.program.parameters
    width = dtype.itemsize * len(targets)

    def at_address(mask: Mask) -> None:
        lanes = registers.active(mask)
        for lane, at in zip(lanes, address(lanes), strict=True):
            data = registers.parameters[names[int(at) >> 16 & 0xFFFF].name]
            place = int(at) & 0xFFFF
            if place + width > len(data):
                raise Fault(f"{registers.program.name}: out of bounds: {one.text}")
            for target, value in zip(
                targets, np.frombuffer(data[place:], dtype, len(targets)), strict=True
            ):
                target[lane] = value

    return at_address


def resolve(space: str, addresses: Array) -> tuple[Array, str]:
    """Where generic addresses are: in shared, local or global memory."""
    if space:
        return addresses, space
    for window, where in ((SHARED_WINDOW, "shared"), (LOCAL_WINDOW, "local")):
        here = addresses >= window
        if here.all():
            return addresses - window, where
        if here.any():
            raise Fault("threads access different memories in one instruction")
    return addresses, "global"


def to_generic(registers: Registers, one: Instruction) -> Step:
    """cvta: to a generic address, or back with `to`."""
    target, source = (
        registers.target(one.operands[0], "u64"),
        registers.source(one.operands[1], "u64"),
    )
    space = space_of(one)
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)
    offset = np.uint64(window if "to" not in one.options else -window % (1 << 64))
    return lambda mask: np.add(source, offset, out=target, where=mask)


def store(registers: Registers, one: Instruction) -> Step:
    space, kind = space_of(one), one.options[-1]
    size = bits_of(kind) // 8
    sources = registers.group(one.operands[1], f"b{8 * size}")
    whole = size * len(sources)
    address = registers.address(one.operands[0], "b32" if space in ("shared", "local") else "u64")

    def step(mask: Mask) -> None:
        lanes = registers.active(mask)
        if not len(lanes):
            return
        values = np.empty((len(lanes), len(sources)), WORDS[size])
        for i, source in enumerate(sources):
            values[:, i] = source[lanes] if isinstance(source, np.ndarray) else source
        data = values.view(np.uint8)
        at, where = resolve(space, address(lanes))
        if where == "local":
            registers.local[lanes[:, None], at[:, None] + np.arange(whole)] = data
            return
        words = _words(data, whole)
        words = words if words.shape[1] > 1 else words[:, 0]
        if where == "shared":
            registers.shared.store(at, words, registers.warp_of[lanes])
        else:
            memory = registers.memory
            parts = memory.check(at, whole, f"{registers.program.name}: store")
            registers.defer(at, whole, lambda: memory.write(parts, at, words, whole))

    return step


_ATOMIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "or": lambda a, b: a | b,
    "and": lambda a, b: a & b,
    "xor": lambda a, b: a ^ b,
    "max": max,
    "min": min,
    "exch": lambda a, b: b,
}


def atomic(registers: Registers, one: Instruction) -> Step:
    """atom and red. What nobody reads may become visible to other blocks as late as a fence."""
    kind = one.options[-1]
    size, dtype = bits_of(kind) // 8, type_of(kind)
    returns = one.name == "atom"
    function = next(_ATOMIC[part] for part in one.options if part in _ATOMIC)
    address = registers.address(one.operands[returns])
    value = registers.source(one.operands[returns + 1], kind)
    target = registers.target(one.operands[0], kind) if returns else None
    is_read = returns and one.operands[0] in registers.program.read
    orders = {"acq_rel", "release", "acquire"} & set(one.options)

    def step(mask: Mask) -> None:
        lanes = registers.active(mask)
        if not len(lanes):
            return
        at, where = resolve(space_of(one), address(lanes))
        if where != "global":
            raise Fault(f"{one.text}: atomic operations on {where} memory are not emulated")
        operands = np.broadcast_to(value, registers.threads)[lanes].copy()
        registers.memory.check(at, size, f"{registers.program.name}: atomic operation")
        if orders:
            registers.flush()
        else:
            registers.flush(at, size)

        def apply() -> None:
            for j in np.random.permutation(len(lanes)):
                old = registers.memory.load(at[j : j + 1], size, one.text).view(dtype)[0]
                new = np.array([function(old, operands[j])], dtype)
                registers.memory.store(at[j : j + 1], new.view(WORDS[size]), one.text)
                if target is not None:
                    target[lanes[j]] = old

        if is_read or orders:
            apply()
        else:
            registers.defer(at, size, apply)

    return step
