"""Loads the compiled operators and decides which backend serves a call."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "cpu", "cuda", "triton", "reference")
NAMESPACES = {"cpu": "rl4rec", "cuda": "rl4rec_cuda", "triton": "rl4rec_triton"}
LEVEL_VARIABLE = "RL4REC_CPU_LEVEL"
EMULATES_CUDA = False  # tests that run the CUDA kernels' sources on the CPU set it

_PACKAGE = Path(__file__).parent.parent


def _load() -> None:
    built = sorted(_PACKAGE.glob("_C.*so"))
    if not built:
        raise ImportError(
            f"the compiled operators are missing from {_PACKAGE}; build them with: "
            "pip install --no-build-isolation -e ."
        )
    try:
        torch.ops.load_library(str(built[0]))
    except OSError as error:
        raise ImportError(
            f"the compiled operators do not fit this machine or torch {torch.__version__}; build "
            f"them again with: pip install --no-build-isolation --force-reinstall --no-deps . "
            f"({error})"
        ) from error
    level = os.environ.get(LEVEL_VARIABLE)
    if level and level not in cpu_levels():
        raise ImportError(
            f"{LEVEL_VARIABLE}={level!r} is not a level of this machine; "
            f"it has {', '.join(cpu_levels())}"
        )
    if level:
        torch.ops.rl4rec.cpu_level(level)


def cpu_levels() -> list[str]:
    """Name the levels of CPU features that this machine can run, best first."""
    return torch.ops.rl4rec.cpu_levels()


def cpu_level() -> str:
    """Name the level of CPU features in use: ``"avx512"``, ``"avx2"`` or ``"portable"``.

    It is the best one the machine has, unless the environment variable RL4REC_CPU_LEVEL named
    another one when the package was imported.
    """
    return torch.ops.rl4rec.cpu_level("")


@contextmanager
def use_cpu_level(level: str) -> Iterator[None]:
    """Run the CPU kernels at another level for a while (process-wide; meant for tests).

    Raises
    ------
    ValueError
        If the machine does not have the level.
    """
    if level not in cpu_levels():
        raise ValueError(f"level must be one of {cpu_levels()} on this machine, got {level!r}")
    before = cpu_level()
    torch.ops.rl4rec.cpu_level(level)
    try:
        yield
    finally:
        torch.ops.rl4rec.cpu_level(before)


def resolve_backend(backend: str, query: Tensor, *, cuda: bool = True) -> str:
    """Name the backend that serves a call: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``.

    Parameters
    ----------
    backend : str
        What the caller asked for.
    query : Tensor
        Where the call's tensors are.
    cuda : bool
        Whether the operator has a kernel in CUDA C++.

    Raises
    ------
    ValueError
        If the backend is unknown or cannot run where the tensors are.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    device = query.device.type
    if backend == "auto":
        if device in ("cpu", "meta"):
            return "cpu"
        return "cuda" if cuda and has_cuda_library() else "triton"
    if backend == "cpu" and device not in ("cpu", "meta"):
        raise ValueError(f"backend='cpu' needs tensors on the CPU, but query is on {query.device}; "
                         "move them there, or pass backend='auto'")  # fmt: skip
    if backend == "cuda" and not cuda:
        raise ValueError("backend='cuda': operators over the whole catalog have Triton kernels "
                         "only; pass backend='triton' or 'auto'")  # fmt: skip
    if backend in ("cuda", "triton") and device != "cuda" and not _runs_on_cpu(backend):
        raise ValueError(f"backend={backend!r} needs tensors on a GPU, but query is on "
                         f"{query.device}; move them with .to('cuda')")  # fmt: skip
    if backend == "cuda" and not has_cuda_library():
        raise ValueError("backend='cuda' needs the compiled CUDA kernels, which are not here; "
                         "install again where nvcc is, or pass backend='triton'")  # fmt: skip
    return backend


def operators(backend: str) -> Any:
    """The registered operators of a backend, ``torch.ops.rl4rec*``."""
    return getattr(torch.ops, NAMESPACES[backend])


def _runs_on_cpu(backend: str) -> bool:
    """Whether a GPU backend is emulated: Triton's interpreter, or CUDA kernels built for tests."""
    if backend == "triton":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return EMULATES_CUDA


@cache
def has_cuda_library() -> bool:
    """Load the kernels in CUDA C++ where they were built and a GPU is there; whether they are."""
    built = sorted(_PACKAGE.glob("_C_cuda.*so"))
    if not built or not torch.cuda.is_available():
        return False
    torch.ops.load_library(str(built[0]))
    return True


_load()
