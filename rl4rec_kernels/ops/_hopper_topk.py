"""The best items by the CUDA C++ kernel for Hopper that collects (csrc/cuda/sm90/collect.cuh).

1. As many items as there is room for are collected, every n-th one of the table.
2. The k-th best of those that were collected is a bound, which at least k items reach. What reaches
   it is collected from some times more items, and so on, up to all. Similar items are often next to
   each other, so every n-th one is a fair sample.
3. Queries for which more items reached the last bound than there was room for (their best items are
   where the samples had few) are searched again. Their room has the best key of each of many groups
   of items; the k-th best of these is nearly the k-th best of all. Otherwise nothing is done.

All scores are made by one kernel. Keys are those of ops/triton/topk_catalog.py.
"""

import math
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._exclusions import exclusion_keys
from rl4rec_kernels.ops._hopper_sides import TILE, excluded_pairs, operands_of, scales_of_tiles

_ROOM = 8  # keys that a query has room for, in multiples of k
_SPARE = 1024  # and some more, for small k
_MOST_ITEMS = 32  # for one of the items before, so that there is room also if that is a poor sample
_KEYS_AT_ONCE = 1 << 26  # of all queries: 512 MiB

_NO_KEY = torch.iinfo(torch.int64).min
_LOWEST = -0x7F800000 << 32  # the key that all items with a score above -inf reach
_UNREACHED = torch.iinfo(torch.int64).max
_LAST_ID = 0x7FFFFFFF


def topk_catalog(
    raw: Any,
    query: Tensor,
    table: Tensor,
    k: int,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    bad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `ops.reference.topk_catalog`, in float32; `bad` is set if an id is out of range."""
    search = _Search(raw, query, Catalog(table, valid, row_stats, source), k)
    num_queries, num_items = len(query), len(table)
    if num_queries and exclude is not None and exclude.numel():
        search.excluded = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
    keys = torch.empty((num_queries, k), dtype=torch.int64, device=query.device)
    step = max(1, _KEYS_AT_ONCE // search.capacity // TILE[0]) * TILE[0]
    for first in range(0, num_queries, step):
        end = min(first + step, num_queries)
        keys[first:end] = search.best_of(first, end)
    ordered = (keys >> 32).to(torch.int32)
    scores = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
    missing = keys == _NO_KEY
    ids = _LAST_ID - (keys & 0xFFFFFFFF)
    return scores.masked_fill(missing, -torch.inf), ids.masked_fill(missing, -1)


class _Search:
    """A call: what is multiplied, and the numbers that it works with."""

    def __init__(self, raw: Any, query: Tensor, catalog: Catalog, k: int) -> None:
        self.raw, self.k, self.valid = raw, k, catalog.valid
        self.query, self.table, self.query_scale, self.table_scale = operands_of(query, catalog)
        self.excluded: Tensor | None = None
        self.capacity = _ROOM * k + _SPARE
        # Of n times more items about n * k reach the bound; n * sqrt(k) is how much that varies.
        self.growth = min(int(self.capacity / (k + 5 * math.sqrt(k))), _MOST_ITEMS)

    def best_of(self, first: int, end: int) -> Tensor:
        """Keys of the k best items of some queries in order, int64 [B, k]; `_NO_KEY` fills up."""
        steps = [1]
        while -(-len(self.table) // steps[-1]) > self.capacity:
            steps.append(steps[-1] * self.growth)
        num_queries, device = end - first, self.query.device
        bounds = torch.full((num_queries,), _LOWEST, dtype=torch.int64, device=device)
        for step in reversed(steps):
            shape = num_queries, self.capacity
            keys = torch.full(shape, _NO_KEY, dtype=torch.int64, device=device)
            found = torch.zeros(num_queries, dtype=torch.int32, device=device)
            self._collect(first, step, bounds, None, keys, found)
            best = keys.topk(self.k, dim=1).values
            # The same item has another number among more items.
            slots = (_LAST_ID - (best[:, -1] & 0xFFFFFFFF)) * self.growth
            bounds = (best[:, -1] >> 32 << 32) | (_LAST_ID - slots)
            bounds = torch.where(best[:, -1] == _NO_KEY, _LOWEST, bounds)
        if len(steps) == 1:  # there was room for all
            return best
        is_full = found > self.capacity
        bounds = torch.where(is_full, best[:, -1], _UNREACHED)
        keys.masked_fill_(is_full[:, None], _NO_KEY)
        found.masked_fill_(is_full, 0)
        self._collect(first, 1, bounds, is_full.any().int().view(1), keys, found)
        return keys.topk(self.k, dim=1).values

    def _collect(
        self,
        first: int,
        step: int,
        bounds: Tensor,
        needed: Tensor | None,
        keys: Tensor,
        found: Tensor,
    ) -> None:
        """Collect from every `step`-th item what reaches the bounds of the queries from `first`."""
        rows = slice(first, first + len(bounds))
        valid = None if self.valid is None else self.valid[::step].contiguous()
        table = self.table[::step]
        query_scale = None if self.query_scale is None else self.query_scale[rows]
        table_scale = None if self.table_scale is None else self.table_scale[::step]
        pairs, starts = self._pairs(first, len(bounds), step)
        self.raw.collect_catalog(
            self.query[rows],
            table,
            bounds,
            valid,
            pairs,
            starts,
            needed,
            keys,
            found,
            query_scale,
            scales_of_tiles(table_scale),
        )

    def _pairs(
        self, first: int, num_queries: int, step: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """The excluded pairs among them."""
        if self.excluded is None:
            return None, None
        rows, items = self.excluded // len(self.table) - first, self.excluded % len(self.table)
        num_items = -(-len(self.table) // step)
        dropped = (rows < 0) | (rows >= num_queries) | (items % step != 0)
        keys = torch.where(dropped, -1, rows * num_items + items // step)
        return excluded_pairs(keys, dropped, num_queries, num_items)
