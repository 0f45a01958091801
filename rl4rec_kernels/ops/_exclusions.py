"""Excluded items as sorted numbers, which GPU kernels take out of their counts."""

import torch
from torch import Tensor


def exclusion_keys(
    exclude: Tensor, offsets: Tensor | None, num_queries: int, num_items: int, bad: Tensor
) -> Tensor:
    """Excluded pairs as sorted numbers row * N + id, int64; -1 for padding and bad ids.

    `bad` is set if an id is out of range, or offsets are wrong.
    """
    if offsets is None:
        rows = torch.arange(num_queries, dtype=torch.int64, device=exclude.device)
        rows = rows[:, None].expand_as(exclude)
    else:
        exclude = exclude.contiguous()
        slots = torch.arange(exclude.numel(), dtype=torch.int64, device=exclude.device)
        rows = torch.searchsorted(offsets.contiguous(), slots, right=True) - 1
        fits = (offsets[0] == 0) & (offsets[-1] == exclude.numel()) & (offsets.diff() >= 0).all()
        bad |= ~fits
        rows = rows.clamp(0, num_queries - 1)
    ids = exclude.long()
    known = (ids >= 0) & (ids < num_items)
    bad |= (~known & (ids != -1)).any()
    return torch.where(known, rows * num_items + ids, -1).reshape(-1).sort().values
