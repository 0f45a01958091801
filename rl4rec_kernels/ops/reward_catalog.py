"""Rank metrics of each target among all items."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import check_column, split_catalog, widen_query
from rl4rec_kernels.ops._blocks import in_blocks, is_streamed, rank_slices
from rl4rec_kernels.ops.metrics import metrics_from_counts
from rl4rec_kernels.ops.quantize import QuantizedTable


def reward_catalog(
    query: Tensor,
    table: Tensor | QuantizedTable,
    targets: Tensor,
    exclude: Tensor | RaggedIds | None = None,
    metrics: Sequence[str] = ("ndcg@10",),
    ties: str = "expected",
    *,
    valid: Tensor | None = None,
    refine: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Compute rank metrics of each query's target among all items.

    Parameters
    ----------
    query, table, targets, exclude, valid, refine, backend
        As in `rank_catalog`.
    metrics : sequence of str
        M names out of ndcg@k, hit@k, mrr@k, mrr, auc, logrank, rank; see `metrics_from_counts` for
        their formulas.
    ties : {"expected", "optimistic", "pessimistic", "average"}
        How ties are ranked; see `metrics_from_counts`.

    Returns
    -------
    Tensor
        float32, shape [B, M]. Not differentiable: a rank is a step function.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit, or a metric or tie rule is unknown.
    IndexError
        If an id is not in the table; the message names it.
    """
    parsed, rule = parse_metrics(metrics), parse_ties(ties)
    query = widen_query(query, table)
    catalog, ids, offsets = split_catalog(query, table, exclude, valid, refine)
    check_column("targets", targets, query)
    backend = _backends.resolve_backend(backend, query, cuda=False)
    if backend == "reference":
        exact = reference.exact_table(*catalog[:3])
        counts = reference.rank_catalog(query, exact, targets, ids, offsets, valid)
        return reference.metrics_from_counts(counts, parsed, rule).float()
    if is_streamed(query, catalog):
        counts = rank_slices(query, catalog, targets, ids, offsets)
        return metrics_from_counts(counts, metrics, ties)
    kinds, cutoffs = [int(m.kind) for m in parsed], [m.cutoff for m in parsed]
    with torch.no_grad():
        operator = _backends.operators(backend).reward_catalog
        return in_blocks(operator, query, catalog, targets, ids, offsets, kinds, cutoffs, int(rule))


def _empty_rewards(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
) -> Tensor:
    return query.new_empty((query.shape[0], len(kinds)), dtype=torch.float32)


_backends.register("reward_catalog", _empty_rewards, cuda=False)
