"""Scores of each query's candidates, differentiable in queries and table."""

from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels.ops import _library, reference
from rl4rec_kernels.ops._arguments import check_embeddings, split_ids
from rl4rec_kernels.ragged import RaggedIds

_ops = torch.ops.rl4rec


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
    backend : {"auto", "cpu", "reference"}
        Who computes.

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
    check_embeddings(query, table)
    ids, offsets = split_ids("candidates", candidates, query)
    if _library.resolve_backend(backend, query) == "reference":
        return reference.score_candidates(query, table, ids, offsets).float()
    return _ops.score_candidates(query, table, ids, offsets)


@torch.library.register_fake("rl4rec::score_candidates")
def _(query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
    return query.new_empty(ids.shape, dtype=torch.float32)


@torch.library.register_fake("rl4rec::score_candidates_grad_query")
def _(grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.register_fake("rl4rec::score_candidates_grad_table")
def _(grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
    return table.new_empty(table.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grad_query = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_query = _ops.score_candidates_grad_query(grad, *saved)
    if ctx.needs_input_grad[1]:
        grad_table = _ops.score_candidates_grad_table(grad, *saved)
    return grad_query, grad_table, None, None


torch.library.register_autograd("rl4rec::score_candidates", _backward, setup_context=_setup_context)


def _differentiable_once(ctx: Any, grad: Tensor) -> None:
    raise NotImplementedError("score_candidates can be differentiated once, not twice")


torch.library.register_autograd("rl4rec::score_candidates_grad_query", _differentiable_once)
torch.library.register_autograd("rl4rec::score_candidates_grad_table", _differentiable_once)
