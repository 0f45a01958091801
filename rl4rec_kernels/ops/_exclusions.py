"""Excluded items as sorted numbers, which GPU kernels take out of their counts and sums."""

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


def sort_by_tile(
    exclude: Tensor | None,
    offsets: Tensor | None,
    targets: Tensor,
    num_items: int,
    bad: Tensor,
    tile: tuple[int, int],
) -> tuple[Tensor | None, Tensor | None]:
    """Excluded pairs as numbers row * N + id, by tile, and where each tile's begin.

    A tile is a block of queries and one of items, of these sizes. `targets` must be in range; they
    are not excluded.
    """
    num_queries = targets.shape[0]
    if exclude is None or exclude.numel() == 0:
        return None, None
    keys = exclusion_keys(exclude, offsets, num_queries, num_items, bad)
    rows, items = keys.clamp(min=0) // num_items, keys.clamp(min=0) % num_items
    dropped = (keys < 0) | (items == targets.long()[rows])
    return group_by_tile(keys, dropped, num_queries, num_items, tile)


def group_by_tile(
    keys: Tensor, dropped: Tensor, num_queries: int, num_items: int, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Sort numbers row * N + id by tile; return them, and where those of each tile begin.

    Those that are dropped come last, behind the last tile.
    """
    rows_of_tile, items_of_tile = tile
    rows, items = keys.clamp(min=0) // num_items, keys.clamp(min=0) % num_items
    num_tiles = -(-num_items // items_of_tile)
    tiles = rows // rows_of_tile * num_tiles + items // items_of_tile
    num_cells = -(-num_queries // rows_of_tile) * num_tiles
    tiles, order = torch.where(dropped, num_cells, tiles).sort(stable=True)
    cells = torch.arange(num_cells + 1, dtype=torch.int64, device=keys.device)
    return keys[order], torch.searchsorted(tiles, cells)
