"""Executes compiled PTX on the CPU, with NumPy: what a GPU would compute, without its speed.

It checks what a GPU would not say: each access lies in a buffer, is aligned and reads what was
written; shared memory is passed between warps by a barrier only, and to the tensor cores and the
copy engine by a fence only. Copies and products take place as late as the program allows, or as
early; blocks run in a random order, several at a time, and their relaxed writes may be seen late.
Those of a cluster run together, and use each other's barriers after one of all and until they end.
It knows the instructions that this project's kernels use, of sm_80 and sm_90a, and says so if it
does not know one.

`program` parses, `registers` and `instructions` prepare a block, `block` runs its threads, and
`launch` a grid of `clusters`. The files between have a family of instructions each.
"""

from tests.gpu.emulator.launch import Mode, launch
from tests.gpu.emulator.memory import Fault, Memory
from tests.gpu.emulator.program import Program

__all__ = ["Fault", "Memory", "Mode", "Program", "launch"]
