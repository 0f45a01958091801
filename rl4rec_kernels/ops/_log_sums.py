"""Log-probabilities over a catalog whose rows are in slices, on several machines.

Each slice sums the exponentials of its own scores, and the sums add up. A slice without the target
takes another of its items for it, because the operator sums over a target and its competitors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4rec_kernels.ops._arguments import Catalog, Ids
from rl4rec_kernels.ops._blocks import in_blocks


@torch.no_grad()
def log_sums(
    query: Tensor, catalog: Catalog, targets: Tensor, exclude: Ids, temperature: float
) -> Tensor:
    """Sum the exponentials of the scores of a slice's items, float64 [B, 2].

    For each query the largest score, and the log of the sum of e^((score - largest) / temperature);
    both are -inf if the slice has no item for it. Targets of -1 are in another slice. `exclude` is
    ragged; it does not remove a target. Ids must have been checked.
    """
    table, valid, *_ = catalog
    valid = table.new_ones(len(table), dtype=torch.bool) if valid is None else valid
    items = valid.nonzero()[:, 0]
    if not len(items):
        return query.new_full((len(query), 2), -torch.inf, dtype=torch.float64)
    first = _first_items(items, exclude, len(query))
    is_empty = (targets < 0) & (first < 0)
    chosen = torch.where(targets < 0, first, targets).masked_fill(is_empty, int(items[0]))
    operator = torch.ops.rl4rec.log_prob_catalog
    sums: Tensor = in_blocks(
        lambda *arguments: operator(*arguments[:6], temperature)[1], query, catalog, chosen, exclude
    )
    return sums.masked_fill(is_empty[:, None], -torch.inf)


def target_log_probs(target_scores: Tensor, sums: Sequence[Tensor], temperature: float) -> Tensor:
    """Log-probabilities of targets, float32 [B], from the `log_sums` of all slices.

    The slices are added in their order in float64.
    """
    largest = torch.stack(list(sums))[:, :, 0].amax(0)
    total = torch.zeros_like(largest)
    for part in sums:
        total += (_distance(part[:, 0], largest, temperature) + part[:, 1]).exp()
    return (_distance(target_scores.double(), largest, temperature) - total.log()).float()


def _distance(scores: Tensor, largest: Tensor, temperature: float) -> Tensor:
    """How far scores are below the largest; equal infinite scores are at a distance of 0."""
    return torch.where(scores == largest, 0.0, (scores - largest) / temperature)


def _first_items(items: Tensor, exclude: Ids, rows: int) -> Tensor:
    """The first of the sorted `items` that each query does not exclude, or -1."""
    ids, offsets = exclude
    if ids is None or offsets is None:
        return items[:1].expand(rows)
    lengths = offsets.diff()
    # These are more than a query excludes, or all.
    items = items[: int(lengths.max()) + 1]
    slots = torch.searchsorted(items, ids).clamp(max=len(items) - 1)
    is_hit = items[slots] == ids
    queries = torch.arange(rows, dtype=torch.int64, device=ids.device).repeat_interleave(lengths)
    excluded = is_hit.new_zeros(rows, len(items))
    excluded[queries[is_hit], slots[is_hit]] = True
    first = items[excluded.int().argmin(1)]
    return first.masked_fill(excluded.all(1), -1)
