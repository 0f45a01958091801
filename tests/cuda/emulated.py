"""The CUDA kernels compiled for the CPU, with emulated threads: csrc/cuda on any machine."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "emulator"
ORDERS = ("forward", "backward", "random")


class Emulated:
    """The raw operators, for tensors on the CPU."""

    def __init__(self, folder: Path) -> None:
        library = build(folder)
        torch.ops.load_library(str(library))
        self.raw = torch.ops.rl4rec_cuda_emulated
        self._set_order = ctypes.CDLL(str(library)).set_order

    @contextmanager
    def order(self, name: str) -> Iterator[None]:
        """Run threads and blocks in an order of `ORDERS`."""
        self._set_order(ORDERS.index(name))
        try:
            yield
        finally:
            self._set_order(0)


def build(folder: Path) -> Path:
    """Compile every .cu file as C++, with the emulator; return the library."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "building the emulated kernels needs g++"
    flags = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-U_FORTIFY_SOURCE",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{HERE}",
        f"-I{ROOT / 'csrc'}",
        *(f"-isystem{path}" for path in include_paths()),
    ]
    sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), HERE / "order.cpp"]

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.name}.o")
        run(compiler, *flags, "-x", "c++", "-c", str(source), "-o", target)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "emulated.so"
    torch_library = f"-L{library_paths()[0]}"
    run(compiler, "-shared", *objects, torch_library, "-ltorch_cpu", "-o", str(library))
    return library


def built_library() -> Path | None:
    """The library for the GPU, or None if the package was built without it."""
    return next((ROOT / "rl4rec_kernels").glob("_C_cuda.*"), None)


def run(*command: str) -> str:
    """Run a program, check that it succeeds, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
