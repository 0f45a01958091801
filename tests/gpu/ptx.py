"""Runs a few lines of PTX, for tests of the emulator."""

import re
from typing import Any

import numpy as np

from tests.gpu.emulator import Memory, Mode, Program, launch

_REGISTERS = (
    ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %d<40>; "
    ".reg .f32 %f<20>; .reg .f64 %e<9>;"
)


def execute(
    body: str, *arrays: Any, threads: int = 32, blocks: int = 1, shared: int = 0,
    mode: Mode | None = None, before: str = "", functions: str = "",
) -> None:  # fmt: skip
    """Run `body` with the addresses of `arrays` in %d0, %d1, ... and the thread's number in %r0."""
    names = [f"param_{i}" for i in range(len(arrays))]
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    loads = "".join(f"ld.param.u64 %d{i}, [{name}];" for i, name in enumerate(names))
    program = Program(
        f".version 8.0\n.target sm_90a\n{functions}\n{before}\n"
        f".entry kernel({parameters}) {{ {_REGISTERS} {loads} mov.u32 %r0, %tid.x; {body} ret; }}"
    )
    memory, arguments = Memory(), []
    for name, array in zip(names, arrays, strict=True):
        memory.add(array.ctypes.data, array.nbytes, name)
        arguments.append(int(array.ctypes.data).to_bytes(8, "little"))
    launch(program, memory, arguments, (blocks, 1, 1), threads, shared, mode or Mode())


_LETTERS = {2: "h", 4: "r", 8: "d"}


def computed(operation: str, inputs: list[Any], out: Any) -> Any:
    """Apply an operation to arrays of 32 values each; `out` is the dtype of the result.

    In the operation, %0 is the result and %1, %2, ... are the inputs.
    """
    result = np.zeros(32, out)
    arrays = [result, *(np.ascontiguousarray(x) for x in inputs)]
    code, names = "", []
    for i, array in enumerate(arrays):
        letter, size = _LETTERS[array.itemsize], array.itemsize
        names.append(f"%{letter}{i + (5 if letter == 'h' else 30)}")
        place = f"mul.wide.u32 %d20, %r0, {size}; add.s64 %d20, %d20, %d{i};"
        if i:
            code += f"{place} ld.global.b{8 * size} {names[i]}, [%d20];"
    for i, name in reversed(list(enumerate(names))):
        operation = operation.replace(f"%{i},", f"{name},").replace(f"%{i};", f"{name};")
        operation = re.sub(rf"%{i}$", name, operation)
    bits = 8 * result.itemsize
    last = f"mul.wide.u32 %d20, %r0, {result.itemsize}; add.s64 %d20, %d20, %d0;"
    execute(f"{code} {operation}; {last} st.global.b{bits} [%d20], {names[0]};", *arrays)
    return result
