"""Operators on the candidates of each query: their scores, the target's rank, and its metrics."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array
from rl4rec_kernels.ids import IdLists
from rl4rec_kernels.metrics import RankCounts, TieRule
from rl4rec_kernels.ops import _backends, _gradients, reference
from rl4rec_kernels.ops._arguments import as_embeddings, check_embeddings, split_ids
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops._transforms import Score, is_transformed
from rl4rec_kernels.ops.metrics import metric_arguments, metrics_from_counts
from rl4rec_kernels.ops.quantize import QuantizedTable


def score_candidates(
    query: Array, table: Array, candidates: IdLists, *, backend: Backend = "auto"
) -> Tensor:
    """Score each query's candidates by the dot product of their embeddings.

    Rows of the table are read in place: no ``[B, C, D]`` gather is made. A score depends only on
    its query and its item, to the bit.

    Parameters
    ----------
    query : Tensor or array, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor or array, shape [N, D]
        Embeddings of all items; of the dtype of `query`, or lower if `query` is float32.
    candidates : Tensor or array, shape [B, C], B lists of ids, or RaggedIds with B rows
        int32 or int64 rows of the table; -1 is padding.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        The implementation to use. ``"auto"`` uses C++ on the CPU; on a GPU CUDA C++ if it was
        compiled, else Triton.

    Returns
    -------
    Tensor
        float32 scores of shape [B, C], or [nnz] for ragged candidates; padding scores -inf.
        Differentiable in `query` and `table`, once, in reverse and in forward mode, also by
        ``torch.func``; gradients are summed in float32 in a fixed order.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid; the message names the argument.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    query, table, ids, backend = _check(query, table, candidates, backend)
    if backend == "reference":
        return reference.score_candidates(query, table, *ids).float()
    if is_transformed():
        return Score.apply(backend, query, table, *ids)
    return _backends.operators(backend).score_candidates(query, table, *ids)


def rank_candidates(
    query: Array, table: Array, candidates: IdLists, *, backend: Backend = "auto"
) -> RankCounts:
    """Count how each row's candidates score against its target.

    Neither a ``[B, C, D]`` gather nor a ``[B, C]`` score matrix is written: extra memory is O(B).
    The target is scored by the same arithmetic as its competitors, so equal embeddings tie.

    Parameters
    ----------
    query, table, backend
        As in `score_candidates`.
    candidates : Tensor or array, shape [B, C], B lists of ids, or RaggedIds with B rows
        int32 or int64 rows of the table. The first of each row is the target. -1 is padding;
        repeats of the target are dropped, other ids count as often as they occur.

    Returns
    -------
    RankCounts
        ``above``, ``tied`` and ``total``, int64 [B]. A NaN target ranks last (all competitors are
        above); a NaN competitor is never above and never tied, but counts in ``total``.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, or a row has no target; the message names the
        argument.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    query, table, ids, backend = _check(query, table, candidates, backend)
    if backend == "reference":
        return reference.rank_candidates(query, table, *ids)
    return RankCounts(*_backends.operators(backend).rank_candidates(query, table, *ids))


def rank_candidates_refined(
    query: Array, table: QuantizedTable, candidates: IdLists, *, backend: Backend = "auto"
) -> RankCounts:
    """Count as `rank_candidates` does for the source of an int8 copy, in about half of the time.

    The copy decides about most competitors, of which a quarter of the bytes is read; those that
    score close to the target are scored by the source. On a GPU all are.

    Parameters
    ----------
    query, candidates, backend
        As in `rank_candidates`.
    table : QuantizedTable
        An int8 copy with its source.

    Returns
    -------
    RankCounts
        Exactly that of ``rank_candidates(query, table.source, candidates)``.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `rank_candidates`; also if the copy is not int8, or has no source.
    """
    if table.source is None:
        raise ValueError("table.source is None: quantize_table must keep it (keep_source=True)")
    query, source, ids, backend = _check(query, table.source, candidates, backend)
    if backend == "reference":
        return reference.rank_candidates(query, source, *ids)
    operator = _backends.operators(backend).rank_candidates_refined
    return RankCounts(*operator(query, source, *ids, table.values, table.row_stats))


def reward_candidates(
    query: Array,
    table: Array,
    candidates: IdLists,
    metrics: Sequence[str] = ("ndcg@10",),
    ties: TieRule = "expected",
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Compute rank metrics of each row's target in the kernel that ranks it.

    Parameters
    ----------
    query, table, candidates, backend
        As in `rank_candidates`.
    metrics, ties
        As in `metrics_from_counts`.

    Returns
    -------
    Tensor
        float32, shape [B, M]. Not differentiable: a rank is a step function.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, a row has no target, or a metric or the tie rule
        is unknown.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    numbers = metric_arguments(metrics, ties)
    query, table, ids, backend = _check(query, table, candidates, backend)
    if backend == "reference":
        counts = reference.rank_candidates(query, table, *ids)
        return metrics_from_counts(counts, metrics, ties, backend=backend)
    operator = _backends.operators(backend).reward_candidates
    return operator(query.detach(), table.detach(), *ids, *numbers)


def _check(
    query: Any, table: Any, candidates: Any, backend: Backend
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor | None], Backend]:
    query, table = as_embeddings(query, table)
    check_embeddings(query, table)
    ids = split_ids("candidates", candidates, query)
    return query, table, ids, _backends.resolve_backend(backend, query)


def _explain_with(operator: Callable[..., Any]) -> Callable[..., None]:
    """Raise the error of an operator on the CPU, which checks ids before it reads embeddings."""

    def explain(
        query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, *rest: Any
    ) -> None:
        no_query, no_table = (
            torch.empty(part.shape[0], 0, dtype=torch.float32, device="cpu")
            for part in (query, table)
        )
        operator(no_query, no_table, ids.cpu(), None if offsets is None else offsets.cpu())

    return explain


def _empty_scores(query: Tensor, table: Tensor, ids: Tensor, *rest: Any) -> Tensor:
    return query.new_empty(ids.shape, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_by(ops: Any) -> Callable[..., Any]:
    """Make the backward function of a backend's scores."""

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
    "score_candidates",
    _empty_scores,
    explain=_explain_with(torch.ops.rl4rec.score_candidates),
    backward=_backward_by,
    setup_context=_setup_context,
)
_backends.register(
    "score_candidates_grad_query",
    lambda grad, query, *rest: query.new_empty(query.shape),
    kernel=_gradients.grad_query,
    backward=_differentiable_once,
)
_backends.register(
    "score_candidates_grad_table",
    lambda grad, query, table, *rest: table.new_empty(table.shape),
    kernel=_gradients.grad_table,
    backward=_differentiable_once,
)
_explain_ranks = _explain_with(torch.ops.rl4rec.rank_candidates)
_backends.register("rank_candidates", _backends.empty_counts, explain=_explain_ranks)
_backends.register(
    "rank_candidates_refined",
    _backends.empty_counts,
    cuda=False,
    explain=_explain_ranks,
    kernel=lambda kernels, query, table, ids, offsets, values, row_stats, bad: (
        kernels.rank_candidates(query, table, ids, offsets, bad)
    ),
)
_backends.register("reward_candidates", _backends.empty_metrics, explain=_explain_ranks)
