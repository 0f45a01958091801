"""Both gradients of `score_candidates` on a GPU, as weighted sums over segments.

Candidates are grouped by query, as they are, or by item, by a stable sort: sums have a fixed
order, and no two programs write to one row. `kernels` has a backend's ``weighted_segment_sum``; ids
have been checked by the scores' own kernel.
"""

from typing import Any

import torch
from torch import Tensor


def grad_query(
    kernels: Any, grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None
) -> Tensor:
    """Gradient of the queries: each one sums over its candidates."""
    starts = starts_of(ids, offsets)
    flat = grad.reshape(-1), table, ids.reshape(-1)
    return kernels.weighted_segment_sum(*flat, None, starts, query)


def grad_table(
    kernels: Any, grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None
) -> Tensor:
    """Gradient of the table: each item sums over the queries it was a candidate of."""
    num_items = table.shape[0]
    flat = ids.reshape(-1).long()
    slots = torch.arange(flat.numel(), dtype=torch.int64, device=ids.device)
    rows = torch.searchsorted(starts_of(ids, offsets), slots, right=True) - 1
    # Padding is sorted behind all items.
    known = (flat >= 0) & (flat < num_items)
    items, order = torch.where(known, flat, num_items).sort(stable=True)
    every_item = torch.arange(num_items + 1, dtype=torch.int64, device=ids.device)
    starts = torch.searchsorted(items, every_item)
    return kernels.weighted_segment_sum(grad.reshape(-1), query, rows, order, starts, table)


def starts_of(ids: Tensor, offsets: Tensor | None) -> Tensor:
    """Where each row begins in ``ids.reshape(-1)``, and where the last one ends."""
    if offsets is not None:
        return offsets
    rows, columns = ids.shape
    return torch.arange(rows + 1, dtype=torch.int64, device=ids.device) * columns
