"""Loads the compiled operators, registers their GPU backends, and picks who serves a call.

``torch.ops.rl4rec_triton`` and ``torch.ops.rl4rec_cuda`` have the operators of ``torch.ops.rl4rec``
with the same arguments, whose CUDA implementation picks one of them. GPU kernels check ids as they
read them, without waiting: they raise a flag, and keep results of bad rows from looking good (NaN;
a negative total). The flag is read after each call, which then raises what the CPU raises, but not
while a CUDA graph is captured.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.ops._blocks import explain_ids

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
        raise ValueError(
            f"backend='cpu' needs tensors on the CPU, but query is on {query.device}; "
            "move them there, or pass backend='auto'"
        )
    if backend == "cuda" and not cuda:
        raise ValueError(
            "backend='cuda': operators over the whole catalog have Triton kernels "
            "only; pass backend='triton' or 'auto'"
        )
    if backend in ("cuda", "triton") and device != "cuda" and not _runs_on_cpu(backend):
        raise ValueError(
            f"backend={backend!r} needs tensors on a GPU, but query is on "
            f"{query.device}; move them with .to('cuda')"
        )
    if backend == "cuda" and not has_cuda_library():
        raise ValueError(
            "backend='cuda' needs the compiled CUDA kernels, which are not here; "
            "install again where nvcc is, or pass backend='triton'"
        )
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
    backward: Callable[[Any], Callable[..., Any]] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> None:
    """Register an operator's GPU backends, and fake implementation and gradient for all.

    Parameters
    ----------
    name : str
        The operator in ``torch.ops.rl4rec``. Its kernels are the functions of this name in
        ``triton_kernels`` and, with `cuda`, in ``ops._cuda``.
    fake : callable
        Makes empty results of the right shapes.
    cuda : bool
        Whether there is a kernel in CUDA C++.
    backward : callable, optional
        Makes the backward function, given a namespace of operators.
    setup_context : callable, optional
        Keeps what the backward function needs.
    """
    backends = ("cpu", "triton", "cuda") if cuda else ("cpu", "triton")
    schema = str(getattr(torch.ops.rl4rec, name).default._schema).removeprefix("rl4rec::")
    for backend in backends:
        if backend != "cpu":
            _libraries[backend].define(schema)
            for key in ("CPU", "CUDA"):  # on the CPU they are interpreted
                _libraries[backend].impl(name, _implementation(name, backend), key)
        ops = operators(backend)
        torch.library.register_fake(f"{ops.name}::{name}", fake)
        if backward is not None:
            torch.library.register_autograd(
                f"{ops.name}::{name}", backward(ops), setup_context=setup_context
            )

    def redirect(*args: Any) -> Any:
        return getattr(operators(resolve_backend("auto", args[0], cuda=cuda)), name)(*args)

    _redirections.impl(name, redirect)


def _implementation(name: str, backend: str) -> Callable[..., Any]:
    """An operator's Python implementation, imported when it is first called."""

    def call(*args: Any) -> Any:
        if backend == "triton":
            require("triton", "triton")
            module = importlib.import_module("rl4rec_kernels.ops.triton")
        else:
            module = importlib.import_module("rl4rec_kernels.ops._cuda")
        bad = torch.zeros(1, dtype=torch.int32, device=args[0].device)
        result = getattr(module, name)(*args, bad)
        if _ids_are_checked and not _is_capturing(bad) and bool(bad):
            _explain(name, args)
        return result

    return call


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _explain(name: str, args: tuple[Any, ...]) -> None:
    """Raise the CPU operator's error: it looks at ids before it looks at embeddings."""
    schema = getattr(torch.ops.rl4rec, name).default._schema
    given = {a.name: v for a, v in zip(schema.arguments, args, strict=True)}
    rows, num_items = given["query"].shape[0], given["table"].shape[0]
    query, table = torch.empty(rows, 0), torch.empty(num_items, 0)

    def on_cpu(argument: str) -> Tensor | None:
        return None if given.get(argument) is None else given[argument].cpu()

    if "ids" in given:
        operator = "score_candidates" if name.startswith("score") else "rank_candidates"
        getattr(torch.ops.rl4rec, operator)(query, table, on_cpu("ids"), on_cpu("offsets"))
    elif name == "score_catalog_targets":
        torch.ops.rl4rec.score_catalog_targets(query, table, on_cpu("targets"), None)
    else:
        names = ("targets", "exclude", "exclude_offsets", "valid", "target_scores")
        explain_ids(num_items, *map(given.get, names))
    raise RuntimeError(
        f"{name} met ids that are not in the table, which are there no longer: "
        "tensors must not change while an operator reads them"
    )


@contextmanager
def unchecked_ids() -> Iterator[None]:
    """Let calls on a GPU return without waiting for the check of their ids (process-wide).

    A bad id then raises nothing: its score is NaN, its row's rewards are NaN, and the total of its
    row's counts is negative. A bad excluded id excludes nothing.
    """
    global _ids_are_checked
    before, _ids_are_checked = _ids_are_checked, False
    try:
        yield
    finally:
        _ids_are_checked = before
