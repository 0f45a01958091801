"""Loads the compiled operators, registers their GPU backends, and picks the backend of a call.

``torch.ops.rl4rec_triton`` and ``torch.ops.rl4rec_cuda`` have the operators of ``torch.ops.rl4rec``
with the same arguments; the CUDA implementation of the latter calls one of them. GPU kernels check
ids as they read them, without waiting: they set a flag, and make the results of bad rows NaN, or
their totals negative. The flag is read after each call, which then raises the CPU's error, but not
while a CUDA graph is captured.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import choice, shown
from rl4rec_kernels._utils.imports import require

Backend = Literal["auto", "cpu", "cuda", "triton", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
NAMESPACES = {"cpu": "rl4rec", "cuda": "rl4rec_cuda", "triton": "rl4rec_triton"}
LEVEL_VARIABLE = "RL4REC_CPU_LEVEL"

_PACKAGE = Path(__file__).parent.parent


def _load() -> None:
    built = sorted(_PACKAGE.glob("_C.*so"))
    if not built:
        # Python imports a source tree in the current directory before an installed package.
        folders = [Path(folder) / _PACKAGE.name for folder in sys.path]
        installed = [folder for folder in folders if any(folder.glob("_C.*so"))]
        remedy = f"run in another directory to use {installed[0]}, or " if installed else ""
        raise ImportError(
            f"the compiled operators are missing from {_PACKAGE}; {remedy}build them with: "
            "pip install --no-build-isolation -e ."
        )
    try:
        torch.ops.load_library(str(built[0]))
    except OSError as error:
        raise ImportError(
            f"the compiled operators do not load with torch {torch.__version__} on this machine; "
            "build them again with: pip install --no-build-isolation --force-reinstall --no-deps . "
            f"({error})"
        ) from error
    level = os.environ.get(LEVEL_VARIABLE)
    if level and level not in cpu_levels():
        raise ImportError(
            f"{LEVEL_VARIABLE}={shown(level)} is not a level of this machine; "
            f"it has {', '.join(cpu_levels())}"
        )
    if level:
        torch.ops.rl4rec.cpu_level(level)


def cpu_levels() -> list[str]:
    """Return the levels of CPU features that this machine can run, best first."""
    return torch.ops.rl4rec.cpu_levels()


def cpu_level() -> str:
    """Return the level of CPU features in use.

    One of ``"amx_fp16"``, ``"amx"``, ``"avx512_bf16"``, ``"avx512_vnni"``, ``"avx512"``,
    ``"avx2"`` and ``"portable"``: the fastest one on this machine, unless the environment variable
    RL4REC_CPU_LEVEL named another one when the package was imported. On Intel's CPUs without AMX
    that is ``"avx512_vnni"``: their dot product of bfloat16 is slower than that of float32.
    ``"amx_emulated"`` is for tests: the kernels
    of ``"amx_fp16"`` on emulated instructions, which are slow.
    """
    return torch.ops.rl4rec.cpu_level("")


@contextmanager
def use_cpu_level(level: str) -> Iterator[None]:
    """Run the CPU kernels at another level inside a with block (process-wide; meant for tests).

    Raises
    ------
    ValueError
        If the machine does not have the level.
    """
    if level not in cpu_levels():
        raise ValueError(f"level must be one of {cpu_levels()} on this machine, got {shown(level)}")
    before = cpu_level()
    torch.ops.rl4rec.cpu_level(level)
    try:
        yield
    finally:
        torch.ops.rl4rec.cpu_level(before)


def resolve_backend(backend: Backend, query: Tensor, *, cuda: bool = True) -> Backend:
    """Return the backend of a call: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``.

    Parameters
    ----------
    backend : str
        The one the caller asked for.
    query : Tensor
        A tensor on the device of the call.
    cuda : bool
        Whether the operator has a kernel in CUDA C++.

    Raises
    ------
    ValueError
        If the backend is unknown or cannot run on the device.
    """
    if not isinstance(backend, str) or backend not in BACKENDS:  # faster than the call alone
        choice("backend", backend, BACKENDS)
    if query.is_cpu and backend in ("auto", "cpu"):  # faster than asking for the device
        return "cpu"
    device = query.device.type
    if backend == "auto":
        if device in ("cpu", "meta"):
            return "cpu"
        return "cuda" if cuda and has_cuda_library() else "triton"
    if backend == "cpu" and device not in ("cpu", "meta"):
        raise ValueError(
            f"backend='cpu' needs tensors on the CPU, got {query.device}; "
            "move them there, or pass backend='auto'"
        )
    if backend == "cuda" and not cuda:
        raise ValueError(
            "backend='cuda' is available for score_candidates, rank_candidates, "
            "reward_candidates and, on a Hopper GPU, for operators on the whole catalog; "
            "pass backend='triton' or 'auto'"
        )
    if backend in ("cuda", "triton") and device != "cuda" and not runs_on_cpu(backend):
        raise ValueError(
            f"backend={shown(backend)} needs tensors on a GPU, got {query.device}; "
            "move them with .to('cuda')"
        )
    if backend == "cuda" and not has_cuda_library():
        raise ValueError(
            "backend='cuda' needs the compiled CUDA kernels, which are missing; "
            "install again where nvcc is available, or pass backend='triton'"
        )
    return backend


def operators(backend: str) -> Any:
    """Return the registered operators of a backend, ``torch.ops.rl4rec*``."""
    return getattr(torch.ops, NAMESPACES[backend])


def runs_on_cpu(backend: str) -> bool:
    """Whether a GPU backend runs on the CPU: Triton does where its kernels are interpreted."""
    return backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


@cache
def has_cuda_library() -> bool:
    """Load the CUDA C++ kernels if they were built and there is a GPU; return whether it worked."""
    built = sorted(_PACKAGE.glob("_C_cuda.*so"))
    if not built or not torch.cuda.is_available():
        return False
    torch.ops.load_library(str(built[0]))
    return True


def kernels(backend: str) -> Any:
    """Return what holds a GPU backend's kernels; Triton is imported at the first call."""
    if backend == "cuda":
        return torch.ops.rl4rec_cuda_raw
    require("triton", "triton")
    return importlib.import_module("rl4rec_kernels.ops.triton")


_load()


_libraries = {
    backend: torch.library.Library(f"rl4rec_{backend}", "DEF") for backend in ("triton", "cuda")
}
_redirections = torch.library.Library("rl4rec", "IMPL", "CUDA")
_ids_are_checked = True


def register(
    name: str,
    fake: Callable[..., Any],
    *,
    cuda: bool = True,
    prefers_cuda: bool = True,
    explain: Callable[..., Any] | None = None,
    kernel: Callable[..., Any] | None = None,
    backward: Callable[[Any], Callable[..., Any]] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> None:
    """Register an operator's GPU backends, and the fake implementation and gradient of all.

    Parameters
    ----------
    name : str
        The operator in ``torch.ops.rl4rec``, which has its schema.
    fake : callable
        Makes empty results of the right shapes from the operator's arguments.
    cuda : bool
        Whether there is a kernel in CUDA C++.
    prefers_cuda : bool
        Whether ``"auto"`` chooses that kernel where it can run.
    explain : callable, optional
        Raises the CPU's error for arguments whose ids the kernels found to be bad. Kernels get a
        flag, int32 [1], as their last argument, which they set if ids are bad. By default they get
        no flag.
    kernel : callable, optional
        Implements the operator with `kernels` as an additional first argument. By default the
        operator is the kernel of its name.
    backward : callable, optional
        Makes the backward function from a namespace of operators.
    setup_context : callable, optional
        Keeps what the backward function needs.
    """
    schema = str(getattr(torch.ops.rl4rec, name).default._schema).removeprefix("rl4rec::")
    for backend in ("cpu", "triton", "cuda") if cuda else ("cpu", "triton"):
        if backend != "cpu":
            call = _implementation(name, backend, explain, kernel)
            _libraries[backend].define(schema)
            for key in ("CPU", "CUDA"):  # on the CPU they are interpreted
                _libraries[backend].impl(name, call, key)
        ops = operators(backend)
        torch.library.register_fake(f"{ops.name}::{name}", fake)
        if backward is not None:
            torch.library.register_autograd(
                f"{ops.name}::{name}", backward(ops), setup_context=setup_context
            )

    def redirect(*args: Any) -> Any:
        backend = resolve_backend("auto", args[0], cuda=cuda and prefers_cuda)
        return getattr(operators(backend), name)(*args)

    _redirections.impl(name, redirect)


def _implementation(
    name: str,
    backend: str,
    explain: Callable[..., Any] | None,
    kernel: Callable[..., Any] | None,
) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        bad = [] if explain is None else [args[0].new_zeros(1, dtype=torch.int32)]
        implementations = kernels(backend)
        if kernel is None:
            result = getattr(implementations, name)(*args, *bad)
        else:
            result = kernel(implementations, *args, *bad)
        if explain is not None and _ids_are_checked and not _is_capturing(*bad) and bool(*bad):
            explain(*args)
            raise RuntimeError(
                f"{name} read ids that are not in the table, but they have changed since: "
                "do not change tensors while an operator reads them"
            )
        return result

    return call


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


@contextmanager
def unchecked_ids() -> Iterator[None]:
    """Let calls on a GPU return without waiting for the check of their ids (process-wide).

    A bad id then raises no error: its score is NaN, its row's rewards are NaN, and the total of its
    row's counts is negative. A bad excluded id excludes nothing.
    """
    global _ids_are_checked
    before, _ids_are_checked = _ids_are_checked, False
    try:
        yield
    finally:
        _ids_are_checked = before


# What fake implementations return. They get the operator's arguments and use few of them.


def empty_counts(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Three counts int64 [B]."""
    above, tied, total = (query.new_empty(query.shape[0], dtype=torch.int64) for _ in range(3))
    return above, tied, total


def empty_metrics(query: Tensor, *rest: Any) -> Tensor:
    """Metrics float32 [B, M]; the last arguments are kinds, cutoffs and ties."""
    return query.new_empty((query.shape[0], len(rest[-3])), dtype=torch.float32)
