"""Operators on all items: the rank of each query's target, its metrics, and the best items."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array
from rl4rec_kernels.ids import IdLists, TargetIds
from rl4rec_kernels.metrics import RankCounts, TieRule
from rl4rec_kernels.ops import _backends, _hopper, reference
from rl4rec_kernels.ops._arguments import (
    NO_IDS,
    Catalog,
    Ids,
    Targets,
    as_embeddings,
    check_catalog,
    check_k,
    split_excluded,
    split_targets,
)
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops._blocks import (
    best_of_slices,
    check_ids,
    explain_ids,
    in_blocks,
    is_streamed,
    rank_slices,
)
from rl4rec_kernels.ops._targets import rank_targets
from rl4rec_kernels.ops._transforms import refuse_derivatives, without_gradient
from rl4rec_kernels.ops.metrics import metric_arguments, metrics_from_counts
from rl4rec_kernels.ops.quantize import QuantizedTable


def rank_catalog(
    query: Array,
    table: Array | QuantizedTable,
    targets: TargetIds,
    exclude: IdLists | None = None,
    *,
    valid: Array | None = None,
    refine: bool = False,
    backend: Backend = "auto",
) -> RankCounts:
    """Count how all items score against each query's target, or against each of its targets.

    Scores are compared while they are in registers: there is neither a ``[B, N]`` matrix nor a
    top-k. The target is scored by the same arithmetic as its competitors, so equal embeddings tie.
    A table of more than 1 GiB is processed slice by slice, so that a memory-mapped table that is
    larger than memory is read once; long work shows a progress bar.

    Parameters
    ----------
    query : Tensor or array, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor or array, shape [N, D], or QuantizedTable
        Embeddings of all items; of the dtype of `query`, or lower if `query` is float32.
    targets : Tensor, shape [B], or RaggedIds with B rows
        int32 or int64 rows of the table: one target per query or, as RaggedIds, several, which must
        differ. NumPy arrays and lists are taken too; a list of lists is several targets per query.
    exclude : Tensor or array, shape [B, X], B lists of ids, or RaggedIds with B rows, optional
        Items that do not compete with a query's target, for example the user's history; -1 is
        padding, and repeats are allowed. It never removes a target of the query.
    valid : Tensor or array, bool, shape [N], optional
        Which rows are items; others never compete. Default: all.
    refine : bool
        For a quantized table: score in float32 those items again whose quantized score is so close
        to the target's that rounding could decide, see Notes. Counts are then exactly those of the
        table that was quantized; without `refine` they are those of the rounded embeddings. Queries
        must be float32, finite and shorter than 1e18.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        The implementation to use. ``"auto"`` uses C++ on the CPU and Triton on a GPU. ``"cuda"``
        needs a GPU of compute capability 9.0 (Hopper).

    Returns
    -------
    RankCounts
        ``above``, ``tied`` and ``total``, int64 [B]. A NaN target ranks last (all competitors are
        above); a NaN competitor is never above and never tied, but counts in ``total``.

        With several targets there is one count for each, in the order of ``targets.values``. The
        query's other targets compete with it, so that 1 + ``above`` is its position in the list of
        the query. Targets with a score of NaN tie with each other at the end of the list.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, or a target's row is not valid; the message names
        the argument.
    IndexError
        If an id is not in the table; the message names it.

    Notes
    -----
    With `refine`, s = fl(q·t) is the float32 score of query q and item t, and ŝ = fl(q̂·t̂) that of
    their rounded copies. Then::

        |s - ŝ| <= |q·t - q̂·t̂| + |s - q·t| + |ŝ - q̂·t̂|
                <= ‖q - q̂‖ ‖t̂‖ + ‖q‖ ‖t - t̂‖
                   + γ ‖q‖ (‖t̂‖ + ‖t - t̂‖) + γ' (‖q‖ + ‖q - q̂‖) ‖t̂‖

    The first line is the triangle inequality. In the second, q·t - q̂·t̂ = (q - q̂)·t̂ + q·(t - t̂)
    and Cauchy-Schwarz give the first two terms. A sum of D products differs from the exact one by
    at most γ Σ|q_j t_j| <= γ ‖q‖ ‖t‖ for any order of additions, γ = D u / (1 - D u), u = 2^-24
    (Higham 2002, section 3.1), which gives the others; γ' also counts the roundings by the scales.
    All lengths are computed, none is assumed: `quantize_table` computes those of items, rounded up.
    A constant covers underflow. So an item whose ŝ differs from the target's s by more than the
    bound is certainly above or below it; the others are scored by the arithmetic of s.
    """
    query, catalog, excluded, backend = _check(query, table, exclude, valid, refine, backend)
    wanted = split_targets(targets, query)
    if isinstance(wanted, Targets):
        return rank_targets(query, catalog, wanted, excluded, backend)
    if backend == "reference":
        return reference.rank_catalog(query, _exact(catalog), wanted, *excluded, catalog.valid)
    if is_streamed(query, catalog):
        return rank_slices(query, catalog, wanted, excluded)
    operator = _backends.operators(backend).rank_catalog
    return RankCounts(*in_blocks(operator, query, catalog, wanted, excluded, None))


def reward_catalog(
    query: Array,
    table: Array | QuantizedTable,
    targets: TargetIds,
    exclude: IdLists | None = None,
    metrics: Sequence[str] = ("ndcg@10",),
    ties: TieRule = "expected",
    *,
    valid: Array | None = None,
    refine: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Compute rank metrics of each query's target, or targets, among all items.

    Parameters
    ----------
    query, table, targets, exclude, valid, refine, backend
        As in `rank_catalog`.
    metrics, ties
        As in `metrics_from_counts`.

    Returns
    -------
    Tensor
        float32, shape [B, M]. Not differentiable: a rank is a step function. A query without
        targets has NaN.

    Raises
    ------
    TypeError, ValueError
        As `rank_catalog`, or if a metric or the tie rule is unknown.
    IndexError
        If an id is not in the table; the message names it.
    """
    numbers = metric_arguments(metrics, ties)
    query, catalog, excluded, backend = _check(query, table, exclude, valid, refine, backend)
    wanted = split_targets(targets, query)
    if isinstance(wanted, Targets):
        counts = rank_targets(query, catalog, wanted, excluded, backend)
        own = "auto" if backend == "cuda" else backend
        return metrics_from_counts(counts, metrics, ties, offsets=wanted.offsets, backend=own)
    if backend == "reference":
        counts = reference.rank_catalog(query, _exact(catalog), wanted, *excluded, catalog.valid)
        return metrics_from_counts(counts, metrics, ties, backend=backend)
    if is_streamed(query, catalog):
        return metrics_from_counts(rank_slices(query, catalog, wanted, excluded), metrics, ties)
    if backend == "cuda":
        operator = _backends.operators(backend).rank_catalog
        counts = RankCounts(*in_blocks(operator, query, catalog, wanted, excluded, None))
        return metrics_from_counts(counts, metrics, ties)
    operator = _backends.operators(backend).reward_catalog
    with without_gradient(query, catalog):
        return in_blocks(operator, query, catalog, wanted, excluded, *numbers)


def topk_catalog(
    query: Array,
    table: Array | QuantizedTable,
    k: int,
    exclude: IdLists | None = None,
    *,
    valid: Array | None = None,
    refine: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Find the k items that score highest for each query.

    All items are scored, and those that may be among the best are kept. Memory does not grow with
    B * N. A table of more than 1 GiB is processed slice by slice, as in `rank_catalog`.

    Parameters
    ----------
    query, table, exclude, valid, backend
        As in `rank_catalog`; excluded items are not found.
    k : int
        From 1 to N.
    refine : bool
        For a quantized table: score in float32 again all items that could be among the best given
        the rounding. Results are then exactly those of the table that was quantized. The table
        itself is scored instead if that takes less time: if it is small, or k a large part of it.

    Returns
    -------
    scores : Tensor, float32, shape [B, k]
        Descending. If fewer than k items are left, -inf follows. Not differentiable; those of
        `score_candidates` are.
    ids : Tensor, int64, shape [B, k]
        Of equal scores the lower id comes first; -1 follows the last item. Items that score NaN or
        -inf are never found.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, or k is out of range; the message names the
        argument.
    IndexError
        If an excluded id is not in the table; the message names it.
    """
    query, catalog, excluded, backend = _check(query, table, exclude, valid, refine, backend)
    k = check_k(k, catalog.values.shape[0])
    refuse_derivatives(
        "topk_catalog",
        "detach its arguments, and score what it finds by score_candidates",
        query,
        catalog.values,
    )
    if backend == "reference":
        scores, best = reference.topk_catalog(
            query.detach(), _exact(catalog).detach(), k, *excluded, catalog.valid
        )
        return scores.float(), best
    if is_streamed(query, catalog):
        check_ids(catalog.values.shape[0], None, excluded)
        return best_of_slices(query, catalog, k, excluded)
    operator = _backends.operators(backend).topk_catalog
    with without_gradient(query, catalog):
        return in_blocks(operator, query, catalog, k, excluded)


def _check(
    query: Any,
    table: Any,
    exclude: Any,
    valid: Any,
    refine: bool,
    backend: Backend,
) -> tuple[Tensor, Catalog, Ids, Backend]:
    query, table = as_embeddings(query, table)
    catalog = check_catalog(query, table, valid, refine)
    excluded = split_excluded(exclude, query)
    return query, catalog, excluded, _hopper.resolve_backend(backend, query, catalog)


def _exact(catalog: Catalog) -> Tensor:
    return reference.exact_table(catalog.values, catalog.row_stats, catalog.source)


def _explain(
    query: Tensor,
    table: Tensor,
    targets: Tensor | int,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None,
    *rest: Any,
    target_scores: Tensor | None = None,
) -> None:
    given = targets if isinstance(targets, Tensor) else None
    explain_ids(table.shape[0], given, Ids(exclude, offsets), valid, target_scores)


def _explain_targets(query: Tensor, table: Tensor, targets: Tensor, *rest: Any) -> None:
    explain_ids(
        table.shape[0],
        targets,
        NO_IDS,
        target_scores=query.new_zeros(targets.shape, dtype=torch.float32),
    )


def _empty_best(query: Tensor, table: Tensor, k: int, *rest: Any) -> tuple[Tensor, Tensor]:
    scores = query.new_empty((query.shape[0], k), dtype=torch.float32)
    return scores, scores.new_empty(scores.shape, dtype=torch.int64)


_backends.register(
    "rank_catalog",
    _backends.empty_counts,
    prefers_cuda=False,
    explain=lambda *args: _explain(*args[:-1], target_scores=args[-1]),
    kernel=_hopper.or_triton("rank_catalog"),
)
_backends.register("reward_catalog", _backends.empty_metrics, cuda=False, explain=_explain)
_backends.register(
    "topk_catalog",
    _empty_best,
    prefers_cuda=False,
    explain=_explain,
    kernel=_hopper.or_triton("topk_catalog"),
)
_backends.register(
    "score_catalog_targets",
    lambda query, *rest: query.new_empty(query.shape[0], dtype=torch.float32),
    cuda=False,
    explain=_explain_targets,
)
