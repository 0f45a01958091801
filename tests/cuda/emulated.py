"""The CUDA kernels on any machine: nvcc compiles them, and their PTX is executed on the CPU."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

from tests.gpu.emulator import Memory, Mode, Program, launch

ROOT = Path(__file__).parents[2]
HOST = ROOT / "tests/gpu/host"
CAPABILITIES = {"cuda": 80, "cuda/sm90": 90}
"""What the kernels of a folder are compiled for."""
CAPABILITY = CAPABILITIES["cuda"]  # its kernels have no code of their own for newer ones


class Emulated:
    """The raw operators, for tensors on the CPU: their own host code, and compiled kernels."""

    def __init__(self, source: Path = ROOT / "csrc", part: str = "cuda") -> None:
        folder = build(source, part)
        torch.ops.load_library(str(folder / "emulated.so"))
        self._library = ctypes.CDLL(str(folder / "emulated.so"))
        self.use((folder / "all.ptx").read_text())
        self._given: list[tuple[int, int]] = []
        self._error: Exception | None = None
        self._mode = Mode()
        launches = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_int,
            ctypes.c_int64, ctypes.POINTER(ctypes.c_void_p),
        )  # fmt: skip
        self._callback = launches(self._launch)
        self._library.set_launch(self._callback)
        self.raw = _Operators(self)
        self.ran: dict[str, int] = {}

    def use(self, text: str) -> None:
        """Run the kernels of this PTX."""
        self.text, self._programs = text, {}

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """Let copies and writes take place late or early."""
        self._mode = mode
        try:
            yield
        finally:
            self._mode = Mode()

    def call(self, operator: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call an operator, whose kernels may access its arguments and what it allocates."""
        tensors = [part for part in arguments if isinstance(part, Tensor)]
        self._given = [
            (part.untyped_storage().data_ptr(), part.untyped_storage().nbytes()) for part in tensors
        ]
        self._library.note_allocations(1)
        try:
            return operator(*arguments)
        except RuntimeError as error:
            if self._error is not None:
                raise self._error from error
            raise
        finally:
            self._error = None
            self._library.note_allocations(0)

    def _launch(
        self, name: bytes, together: int, blocks: int, threads: int, shared: int, pointers: Any
    ) -> int:
        try:
            kernel = name.decode()
            if kernel not in self._programs:
                self._programs[kernel] = Program(self.text, kernel)
            program, memory = self._programs[kernel], Memory()
            for address, size in {*self._given, *self._allocations()}:
                memory.add(address, size)
            arguments = [
                ctypes.string_at(pointers[i], parameter.size)
                for i, parameter in enumerate(program.parameters)
            ]
            self.ran[kernel] = self.ran.get(kernel, 0) + blocks
            grid = (blocks, 1, 1)
            launch(program, memory, arguments, grid, threads, shared, self._mode, together)
        except Exception as error:
            self._error = error
            return 1
        return 0

    def _allocations(self) -> list[tuple[int, int]]:
        ranges = (ctypes.c_uint64 * 2048)()
        count = self._library.list_allocations(ranges, ctypes.c_int64(1024))
        return [(ranges[2 * i], ranges[2 * i + 1]) for i in range(count)]


class _Operators:
    def __init__(self, emulated: Emulated) -> None:
        self._emulated = emulated

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(torch.ops.rl4rec_cuda_emulated, name)
        return lambda *arguments: self._emulated.call(operator, arguments)


def nvcc() -> str:
    """NVIDIA's compiler; without it the test is skipped."""
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(found).exists():
        pytest.skip("needs nvcc")
    return found


def flags_of(source: Path) -> list[str]:
    return [
        "-std=c++17",
        "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{HOST}",
        f"-I{source}",
        *(part for path in include_paths() for part in ("-isystem", path)),
    ]


def write_all(folder: Path, source: Path, part: str = "cuda") -> Path:
    """A file that includes every .cu file of a folder: torch's headers are then read once."""
    path = folder / "all.cu"
    names = sorted(f"{part}/{file.name}" for file in (source / part).glob("*.cu"))
    names += ["cuda/arguments.cu"] * (part != "cuda")  # which all others use
    path.write_text("".join(f'#include "{name}"\n' for name in names))
    return path


def architecture_of(part: str) -> str:
    """The name of what nvcc compiles a folder for, such as 90a."""
    return f"{CAPABILITIES[part]}{'a' * (part != 'cuda')}"


def build(source: Path, part: str = "cuda") -> Path:
    """The folder, by the content of its sources, with emulated.so and all.ptx."""
    files = [*source.glob("*.h"), *(source / "cuda").glob("*.cu*"), *HOST.rglob("*.c*")]
    files += (source / part).glob("*.cu*")
    content = [torch.__version__, part, *(file.read_text() for file in sorted(files))]
    key = hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
    folder = ROOT / ".cache/emulated" / f"{part.replace('/', '-')}-{key}"
    if (folder / "emulated.so").exists():
        return folder
    compiler = nvcc()
    work = folder.with_name(f"{folder.name}-{os.getpid()}")
    work.mkdir(parents=True, exist_ok=True)
    virtual = f"compute_{architecture_of(part)}"
    architecture = f"arch={virtual},code={virtual}"
    run(
        compiler, *flags_of(source), "-O1", "-Xcompiler=-fPIC,-fvisibility=hidden", "--keep",
        "--keep-dir", str(work), "-gencode", architecture, "-c", "-o", str(work / "all.o"),
        str(write_all(work, source, part)),
    )  # fmt: skip
    libraries = [f"-L{library_paths()[0]}", "-ltorch_cpu", "-lc10"]
    run(
        compiler, *flags_of(source), "-O1", "-Xcompiler=-fPIC", "-shared", "-cudart", "none",
        str(work / "all.o"), str(HOST / "runtime.cpp"), *libraries, "-o", str(work / "emulated.so"),
    )  # fmt: skip
    for file in work.iterdir():
        if file.name not in ("emulated.so", "all.ptx"):
            file.unlink()
    try:
        work.rename(folder)
    except OSError:  # another process has built it
        shutil.rmtree(work)
    return folder


def built_library() -> Path | None:
    """The library for the GPU, or None if the package was built without it."""
    return next((ROOT / "rl4rec_kernels").glob("_C_cuda.*"), None)


def run(*command: str) -> str:
    """Run a program, check that it succeeds, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
