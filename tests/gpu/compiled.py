"""Runs Triton kernels as PTX that was compiled for a GPU, on tensors of the CPU.

Import this before triton, in a process without TRITON_INTERPRET: Triton decides when it is imported
whether kernels are compiled or interpreted.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Triton's own cache, by the source of a kernel: only PTX is in it, and no machine code.
os.environ["TRITON_CACHE_DIR"] = str(ROOT / ".cache/emulated/triton")
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # it takes time, and is not looked at
assert os.environ.get("TRITON_INTERPRET", "0") == "0", "Triton would interpret its kernels"

import numpy as np  # noqa: E402
from torch import Tensor  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import CUDABackend  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from rl4rec_kernels.ops import _backends  # noqa: E402
from tests.gpu.emulator import Memory, Mode, Program, launch  # noqa: E402

CAPABILITIES = (80, 90)
_NUMBERS = {"fp32": np.float32, "fp64": np.float64}
change: Callable[[str, str], str] | None = None
"""Replaces the PTX of a kernel of a name; for `faults`."""
ran: dict[tuple[str, int], int] = {}
"""How many programs of each (kernel, capability) were executed."""


class NoGpu:
    """Replaces Triton's driver: it names the GPU to compile for."""

    capability, mode = 90, Mode()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # by which Triton keeps what it compiled

    def get_current_stream(self, device: int) -> int:
        return 0


GPU = NoGpu()


def _flat(signature: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(signature, tuple):
        for part, inner in zip(signature, value, strict=True):
            yield from _flat(part, inner)
    elif signature != "constexpr":
        yield signature, value


def tensor_range(tensor: Tensor) -> tuple[int, int]:
    """The address of a tensor and the bytes from its first value to its last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    values = 1 + sum((size - 1) * step for size, step in steps) if tensor.numel() else 0
    return tensor.data_ptr(), values * tensor.element_size()


def _packed(kind: str, value: Any, memory: Memory) -> bytes:
    if kind.startswith("*"):
        if value.numel():
            memory.add(*tensor_range(value))
        return int(value.data_ptr()).to_bytes(8, "little")
    if kind in _NUMBERS:
        return _NUMBERS[kind](value).tobytes()
    return int(value).to_bytes(8 if kind.endswith("64") else 4, "little", signed=kind[0] == "i")


@lru_cache(64)
def program_of(name: str, text: str) -> Program:
    """The kernel `name` of this PTX."""
    return Program(text if change is None else change(name, text))


_compile: Callable[..., Any] = JITFunction.run


def _run(self: JITFunction, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
    kernel = _compile(self, *args, grid=grid, warmup=True, **options)
    text = kernel.asm["ptx"]
    for other in kernel.asm.keys() - {"ptx"}:  # which Triton would keep
        del kernel.asm[other]
    names = [parameter.name for parameter in self.params]
    values = dict(zip(names, args, strict=False)) | options
    memory, arguments = Memory(), []
    for name, signature in kernel.src.signature.items():
        for kind, value in _flat(signature, values[name]):
            arguments.append(_packed(kind, value, memory))
    arguments += [bytes(8), bytes(8)]  # Triton's scratch memory, which no kernel uses
    shape = (*grid, 1, 1)[:3]
    metadata = kernel.metadata
    key = (metadata.name, GPU.capability)
    ran[key] = ran.get(key, 0) + shape[0] * shape[1] * shape[2]
    program = program_of(metadata.name, text)
    launch(
        program, memory, arguments, shape, 32 * metadata.num_warps, metadata.shared, GPU.mode
    )  # fmt: skip
    return kernel


def install() -> None:
    """Run all Triton kernels of this process that way."""
    driver.set_active(GPU)
    CUDABackend.make_cubin = lambda self, *args, **options: b""
    JITFunction.run = _run
    _backends.runs_on_cpu = lambda backend: True


@contextmanager
def capability(wanted: int, mode: Mode | None = None) -> Iterator[None]:
    """Compile for a GPU inside a with block."""
    before = GPU.capability, GPU.mode
    GPU.capability, GPU.mode = wanted, mode or Mode()
    try:
        yield
    finally:
        GPU.capability, GPU.mode = before
