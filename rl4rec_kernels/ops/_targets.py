"""Several targets per query: their ranks in one list, on every backend."""

import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import _backends, _hopper, reference
from rl4rec_kernels.ops._arguments import NO_IDS, Catalog, Ids, Targets
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops._blocks import (
    check_ids,
    explain_ids,
    in_blocks,
    is_streamed,
    rank_slices,
    row_of_each,
)


def rank_targets(
    query: Tensor, catalog: Catalog, targets: Targets, exclude: Ids, backend: Backend
) -> RankCounts:
    """`rank_catalog` for several targets per query: counts of each, query after query."""
    if backend == "reference":
        exact = reference.exact_table(catalog.values, catalog.row_stats, catalog.source)
        return reference.rank_catalog_targets(query, exact, *targets, *exclude, catalog.valid)
    if is_streamed(query, catalog):
        check_ids(catalog.values.shape[0], targets, exclude, catalog.valid)
        rows, ids, excluded = one_target_each(targets, exclude, catalog.values.shape[0])
        return in_one_list(rank_slices(query[rows], catalog, ids, excluded), targets.offsets)
    operator = _backends.operators(backend).rank_catalog_targets
    return RankCounts(*in_blocks(operator, query, catalog, targets, exclude))


def one_target_each(targets: Targets, exclude: Ids, num_items: int) -> tuple[Tensor, Tensor, Ids]:
    """Queries repeated for each of their targets: their rows, the targets, and what to exclude.

    A query's other targets compete with each of them, so they are not excluded. This form scores
    the catalog for each target, and serves where slices of the table are added up.
    """
    rows = row_of_each(targets)
    ids = targets.values.long()
    if exclude.values is None:
        return rows, ids, NO_IDS
    if exclude.offsets is None:
        excluded = exclude.values.long().reshape(-1)
        own = torch.arange(exclude.values.shape[0], device=rows.device, dtype=torch.int64)
        own = own.repeat_interleave(exclude.values.shape[1])
    else:
        excluded, own = exclude.values.long(), row_of_each(Targets(exclude.values, exclude.offsets))
    keep = ~torch.isin(own * num_items + excluded, rows * num_items + ids) & (excluded >= 0)
    excluded, own = excluded[keep], own[keep]
    num_queries = targets.offsets.shape[0] - 1
    lengths = own.bincount(minlength=num_queries)
    starts = (lengths.cumsum(0) - lengths)[rows]
    offsets = _offsets(lengths[rows])
    slots = torch.arange(int(offsets[-1]), device=rows.device, dtype=torch.int64)
    shifts = (starts - offsets[:-1]).repeat_interleave(lengths[rows])
    return rows, ids, Ids(excluded[slots + shifts], offsets)


def in_one_list(counts: RankCounts, offsets: Tensor) -> RankCounts:
    """Let targets with a score of NaN, which each come last, share the last ranks of their query.

    Two targets of a query can only be both below all others if their scores are NaN.
    """
    above, tied, total = counts
    rows = row_of_each(Targets(total, offsets))
    is_last = (tied == 0) & (above == total - 1)
    num_last = total.new_zeros(offsets.shape[0] - 1).index_add(0, rows, is_last.long())
    num_last = num_last[rows]
    shared = is_last & (num_last > 1)
    return RankCounts(
        torch.where(shared, total - num_last, above),
        torch.where(shared, num_last - 1, tied),
        total,
    )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def _empty_counts(
    query: Tensor, table: Tensor, targets: Tensor, *rest: object
) -> tuple[Tensor, ...]:
    return tuple(query.new_empty(targets.shape[0], dtype=torch.int64) for _ in range(3))


def _explain(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None,
    *rest: object,
) -> None:
    explain_ids(table.shape[0], Targets(targets, target_offsets), Ids(exclude, offsets), valid)


_backends.register(
    "rank_catalog_targets",
    _empty_counts,
    prefers_cuda=False,
    explain=_explain,
    kernel=_hopper.or_triton("rank_catalog_targets"),
)
