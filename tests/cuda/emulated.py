"""The CUDA kernels compiled for the CPU, with their threads emulated: csrc/cuda on any machine."""

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "emulator"
ORDERS = {"forward": 0, "backward": 1, "random": 2}


def build(folder: Path) -> Path:
    """Compile every .cu file and the emulator; return the library."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "building the emulated kernels needs g++"
    flags = [
        "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
        "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-ffp-contract=off",
        "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{HERE}", f"-I{ROOT / 'csrc'}",
        *(f"-isystem{path}" for path in include_paths()),
    ]  # fmt: skip
    sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), HERE / "order.cpp"]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        run([compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "emulated.so"
    torch_library = f"-L{library_paths()[0]}"
    run([compiler, "-shared", *map(str, objects), torch_library, "-ltorch_cpu", "-o", str(library)])
    return library


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def load(library: Path) -> ctypes.CDLL:
    torch.ops.load_library(str(library))
    return ctypes.CDLL(str(library))
