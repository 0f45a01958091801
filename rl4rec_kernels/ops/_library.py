"""Loads the compiled operators and decides which backend serves a call."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

BACKENDS = ("auto", "cpu", "reference")
LEVEL_VARIABLE = "RL4REC_CPU_LEVEL"


def _load() -> None:
    package = Path(__file__).parent.parent
    built = sorted(package.glob("_C.*so"))
    if not built:
        raise ImportError(
            f"the compiled operators are missing from {package}; build them with: "
            "pip install --no-build-isolation -e ."
        )
    torch.ops.load_library(str(built[0]))
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


def resolve_backend(backend: str, query: Tensor) -> str:
    """Name the backend that serves a call, ``"cpu"`` or ``"reference"``.

    Raises
    ------
    ValueError
        If the backend is unknown or cannot run where the tensors are.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "reference":
        return backend
    if query.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"there are no kernels for device {query.device} in this version: move the tensors "
            "to the CPU, or pass backend='reference'"
        )
    return "cpu"


_load()
