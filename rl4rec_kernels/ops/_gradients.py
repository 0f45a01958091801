"""Both gradients of `score_candidates` on a GPU, as weighted sums over segments.

Candidates are grouped by query, where they stand, or by item, by a stable sort: sums have a fixed
order, and no two programs write to one row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SegmentSum = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor], Tensor]


def grad_query(
    segment_sum: SegmentSum,
    grad: Tensor,
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
) -> Tensor:
    """Gradient of the queries: each one sums over its candidates."""
    starts = _starts(ids) if offsets is None else offsets
    return segment_sum(grad.reshape(-1), table, ids.reshape(-1), None, starts, query)


def grad_table(
    segment_sum: SegmentSum,
    grad: Tensor,
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
) -> Tensor:
    """Gradient of the table: each item sums over the queries it was a candidate of."""
    num_items = table.shape[0]
    flat = ids.reshape(-1).long()
    places = torch.arange(flat.numel(), device=ids.device)
    rows = torch.searchsorted(_starts(ids) if offsets is None else offsets, places, right=True) - 1
    # Padding goes behind all items.
    known = (flat >= 0) & (flat < num_items)
    items, order = torch.where(known, flat, num_items).sort(stable=True)
    starts = torch.searchsorted(items, torch.arange(num_items + 1, device=ids.device))
    return segment_sum(grad.reshape(-1), query, rows, order, starts, table)


def _starts(ids: Tensor) -> Tensor:
    """Where the rows of dense ids begin in ``ids.reshape(-1)``, and where the last one ends."""
    rows, columns = ids.shape
    return torch.arange(rows + 1, device=ids.device) * columns
