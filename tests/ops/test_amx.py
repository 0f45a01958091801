"""The tile instructions of AMX and their emulation, against Intel's definition in NumPy."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4rec_kernels.ops import cpu_levels

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
FLAGS = {"emulated": AVX2, "real": [*AVX2, "-mamx-tile", "-mamx-bf16", "-mamx-int8"]}

# Adds to c [16, 16] the products of a and b, in other tiles for every dtype.
SOURCE = """
#define RL4REC_LEVEL tested
#include "cpu/amx.h"
using namespace rl4rec::tested;
extern "C" void multiply(const void* a, const void* b, void* c, int is_float16) {
  configure_tiles();
  if (is_float16) {
    TILE_LOAD(1, c, 64); TILE_LOAD(4, a, 64); TILE_LOAD(6, b, 64);
    TILE_DOT_FLOAT16(1, 4, 6);
    TILE_STORE(1, c, 64);
  } else {
    TILE_LOAD(7, c, 64); TILE_LOAD(0, a, 64); TILE_LOAD(5, b, 64);
    TILE_DOT_BFLOAT16(7, 0, 5);
    TILE_STORE(7, c, 64);
  }
  release_tiles();
}
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> dict[str, Path]:
    """Two libraries of the function above: with instructions, and with their emulation."""
    if COMPILER is None or "amx_emulated" not in cpu_levels():
        pytest.skip("needs a C++ compiler, and a CPU of x86-64 with AVX2")
    folder = tmp_path_factory.mktemp("amx")
    source = folder / "tiles.cpp"
    source.write_text(SOURCE)
    found = {}
    for name, flags in FLAGS.items():
        found[name] = folder / f"{name}.so"
        options = ["-std=gnu++17", "-O1", "-shared", "-fPIC", f"-I{CSRC}", *flags]
        subprocess.run([COMPILER, *options, "-o", found[name], source], check=True)
    return found


def flushed(values: np.ndarray) -> np.ndarray:
    """Float32 values, with zeros of their sign for denormals."""
    tiny = np.abs(values) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), values), values)


def defined(a: torch.Tensor, b: torch.Tensor, c: np.ndarray) -> np.ndarray:
    """Add to c the products of a [16, 32] and b [32, 16], as Intel's manual does.

    A product of two float16, or of two bfloat16 of middling size, is a float32: so a fused
    multiply-add is an addition.
    """
    left, right = a.float().numpy(), b.float().numpy()
    if a.dtype == torch.bfloat16:
        left, right = flushed(left), flushed(right)
    chains = np.zeros((2, 16, 16), np.float32)
    for k in range(32):
        chains[k % 2] = flushed(chains[k % 2] + left[:, k, None] * right[k])
    return flushed(flushed(c) + flushed(chains[0] + chains[1]))


def draw(kind: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    torch.manual_seed(0)
    a, b, c = torch.randn(16, 32), torch.randn(32, 16), torch.randn(16, 16).numpy()
    if kind == "large":
        a, b = 2e4 * a, 2e4 * b.clamp(-3, 3)
    elif kind == "denormal":
        scale = 1e-7 if dtype == torch.float16 else 1e-39
        a[::2], b[:, ::3], c[::3] = scale * a[::2], b[:, ::3].round(), 1e-40 * c[::3]
        b[::2] = 0.0
    elif kind == "infinite":
        a[3, 5], b[7, 2], b[9, 4], c[1, 1] = torch.inf, -torch.inf, torch.nan, np.inf
    elif kind == "zeros":
        a, b, c = -torch.zeros_like(a), b.round(), -np.zeros_like(c)
    return a.to(dtype), b.to(dtype), c


@pytest.mark.parametrize("body", FLAGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["normal", "large", "denormal", "infinite", "zeros"])
def test_tiles_are_multiplied_as_intel_defines_it(kind, dtype, body, libraries):
    level = "amx_fp16" if dtype == torch.float16 else "amx"
    if body == "real" and level not in cpu_levels():
        pytest.skip(f"needs a CPU with {level}")
    a, b, c = draw(kind, dtype)
    pairs = b.view(16, 2, 16).transpose(1, 2).contiguous()
    with np.errstate(invalid="ignore"):
        expected = defined(a, b, c)
    found = c.copy()
    ctypes.CDLL(libraries[body]).multiply(
        ctypes.c_void_p(a.data_ptr()),
        ctypes.c_void_p(pairs.data_ptr()),
        ctypes.c_void_p(found.ctypes.data),
        dtype == torch.float16,
    )
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(found)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])


def test_the_bytes_of_an_instruction_are_the_assembler_s(libraries):
    objdump, assembler = shutil.which("objdump"), shutil.which("as")
    if not objdump or not assembler:
        pytest.skip("needs binutils")
    wanted = "tdpfp16ps %tmm6,%tmm4,%tmm1"
    known = subprocess.run(
        [assembler, "-o", os.devnull, "-"], input=wanted + "\n", text=True, capture_output=True
    )
    if known.returncode != 0:
        pytest.skip("needs an assembler that knows AMX-FP16: binutils 2.40")
    listing = subprocess.run(
        [objdump, "-d", libraries["real"]], text=True, capture_output=True, check=True
    )
    assert wanted in listing.stdout
