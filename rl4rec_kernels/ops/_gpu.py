"""Registers the GPU backends of the operators: ``torch.ops.rl4rec_triton`` and ``rl4rec_cuda``.

Both have the operators of ``torch.ops.rl4rec`` with the same arguments, whose CUDA implementation
picks one of them. Kernels check ids as they read them, without waiting: they raise a flag, and keep
results of bad rows from looking good (NaN; a negative total). The flag is read after each call,
which then raises what the CPU raises, but not while a CUDA graph is captured.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._imports import require
from rl4rec_kernels.ops._library import operators, resolve_backend
from rl4rec_kernels.ops.slices import explain_ids

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
            module = importlib.import_module("rl4rec_kernels.triton_kernels")
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
    raise RuntimeError(f"{name} met ids that are not in the table, which are there no longer: "
                       "tensors must not change while an operator reads them")  # fmt: skip


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
