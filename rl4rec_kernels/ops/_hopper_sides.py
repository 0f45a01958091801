"""What the CUDA C++ kernels for Hopper (csrc/cuda/sm90) read: sides, scales, excluded pairs."""

import torch.nn.functional as F
from torch import Tensor

from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._exclusions import group_by_tile
from rl4rec_kernels.ops._rounding import round_queries

TILE = (128, 256)
"""Queries and items, as in csrc/cuda/sm90/tiles.cuh."""


def operands_of(
    query: Tensor, catalog: Catalog
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the queries and items that are multiplied, and the scales of both."""
    values, _, row_stats, source = catalog
    if source is not None:  # exact, and fast enough on the tensor cores
        values, row_stats = source, None
    query, query_scale, table_scale = round_queries(query, values, row_stats)
    return query, values, query_scale, table_scale


def scales_of_tiles(table_scale: Tensor | None) -> Tensor | None:
    """Return the scales of items, with zeros behind them, as many as all tiles have items."""
    if table_scale is None:
        return None
    return F.pad(table_scale, (0, -len(table_scale) % TILE[1])).contiguous()


def excluded_pairs(
    keys: Tensor, dropped: Tensor, num_queries: int, num_items: int
) -> tuple[Tensor, Tensor]:
    """Return excluded pairs as the kernels read them, int32, and where those of each tile begin.

    `keys` and `dropped` are those of `group_by_tile`.
    """
    keys, starts = group_by_tile(keys, dropped, num_queries, num_items, TILE)
    return places_in_tiles(keys, num_items), starts


def places_in_tiles(keys: Tensor, num_items: int) -> Tensor:
    """Return where pairs are in their tiles, int32, from their numbers row * N + id."""
    rows, items = keys.clamp(min=0) // num_items, keys.clamp(min=0) % num_items
    return ((rows % TILE[0]) * TILE[1] + items % TILE[1]).int()
