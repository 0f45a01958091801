"""Scores of each query's candidates, differentiable in queries and table."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import check_embeddings, split_ids, widen_query


def score_candidates(
    query: Tensor, table: Tensor, candidates: Tensor | RaggedIds, *, backend: str = "auto"
) -> Tensor:
    """Score each query's candidates by the dot product of their embeddings.

    Rows of the table are read where they lie: no ``[B, C, D]`` gather is made. A score depends on
    nothing but its query and its item, to the bit.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor, shape [N, D]
        Embeddings of all items; of the dtype of `query`, or lower where `query` is float32.
    candidates : Tensor, shape [B, C], or RaggedIds with B rows
        int32 or int64 rows of the table; -1 is padding.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        Who computes. ``"auto"`` takes what is best where the tensors are: C++ on the CPU; on a GPU
        CUDA C++ where it was compiled, else Triton.

    Returns
    -------
    Tensor
        float32 scores of shape [B, C], or [nnz] for ragged candidates; padding scores -inf.
        Differentiable in `query` and `table`; gradients are summed in float32 in a fixed order.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit; the message names the argument.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    query = widen_query(query, table)
    check_embeddings(query, table)
    ids, offsets = split_ids("candidates", candidates, query)
    backend = _backends.resolve_backend(backend, query)
    if backend == "reference":
        return reference.score_candidates(query, table, ids, offsets).float()
    return _backends.operators(backend).score_candidates(query, table, ids, offsets)


def _empty_scores(query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
    return query.new_empty(ids.shape, dtype=torch.float32)


def _like_query(
    grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None
) -> Tensor:
    return query.new_empty(query.shape)


def _like_table(
    grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None
) -> Tensor:
    return table.new_empty(table.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_by(ops: Any) -> Callable[..., Any]:
    """The backward function of a backend's scores."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grad_query = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_query = ops.score_candidates_grad_query(grad, *saved)
        if ctx.needs_input_grad[1]:
            grad_table = ops.score_candidates_grad_table(grad, *saved)
        return grad_query, grad_table, None, None

    return backward


def _differentiable_once(ops: Any) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError("score_candidates can be differentiated once, not twice")

    return backward


_backends.register(
    "score_candidates", _empty_scores, backward=_backward_by, setup_context=_setup_context
)
_backends.register("score_candidates_grad_query", _like_query, backward=_differentiable_once)
_backends.register("score_candidates_grad_table", _like_table, backward=_differentiable_once)
