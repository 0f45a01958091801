"""Rank metrics of each target among all items."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4rec_kernels.metrics import metrics_from_counts, parse_metrics, parse_ties
from rl4rec_kernels.ops import _library, reference
from rl4rec_kernels.ops._arguments import check_column, check_valid, split_ids, split_table
from rl4rec_kernels.ops.slices import Catalog, is_streamed, rank_slices
from rl4rec_kernels.quantize import QuantizedTable
from rl4rec_kernels.ragged import RaggedIds


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
    values, row_info, source = split_table(query, table, refine)
    check_column("targets", targets, query)
    check_valid(valid, values)
    ids, offsets = (None, None) if exclude is None else split_ids("exclude", exclude, query)
    if _library.resolve_backend(backend, query) == "reference":
        plain = reference.dequantize(values, row_info) if source is None else source
        counts = reference.rank_catalog(query, plain, targets, ids, offsets, valid)
        return reference.metrics_from_counts(counts, parsed, rule).to(query.device).float()
    catalog = Catalog(values, row_info, source, valid)
    if is_streamed(query, catalog):
        return metrics_from_counts(
            rank_slices(query, catalog, targets, ids, offsets), metrics, ties
        )
    kinds, cutoffs = [int(m.kind) for m in parsed], [m.cutoff for m in parsed]
    return torch.ops.rl4rec.reward_catalog(
        query.detach(), values.detach(), targets, ids, offsets, valid, row_info,
        None if source is None else source.detach(), kinds, cutoffs, int(rule),
    )  # fmt: skip


@torch.library.register_fake("rl4rec::reward_catalog")
def _(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_info: Tensor | None,
    source: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
) -> Tensor:
    return query.new_empty((query.shape[0], len(kinds)), dtype=torch.float32)
