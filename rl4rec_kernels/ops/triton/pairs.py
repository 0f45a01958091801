"""Scores of single pairs by the arithmetic of a tile: of targets and of excluded items.

A program takes as many pairs as a tile has rows, multiplies all their queries with all their items
and keeps the diagonal. That is wasteful, but still little work compared with the catalog, and a
pair's score is the one it has there, to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import is_open, launch
from rl4rec_kernels.ops.triton.tile import BLOCK, Operands, float64_scores, tile_scores


@triton.jit
def pair_scores(sides, query_rows, table_rows, tile: tl.constexpr):
    scores = tile_scores(sides, query_rows, table_rows, tile, False)
    BLOCK: tl.constexpr = tile.block
    slots = tl.arange(0, BLOCK)
    own = tl.sum(tl.where(slots[:, None] == slots[None, :], scores, 0.0), axis=1)
    if tl.max(is_open(own).to(tl.int32), axis=0) > 0:
        own = tl.where(is_open(own), float64_scores(sides, query_rows, table_rows, tile), own)
    return own


@triton.jit
def _score_targets(
    out, targets, valid, bad, sides, tile: tl.constexpr, MAY_BE_ELSEWHERE: tl.constexpr
):
    BLOCK: tl.constexpr = tile.block
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < sides.num_queries
    items = tl.load(targets + rows, mask=inside, other=0).to(tl.int64)
    is_item = (items >= 0) & (items < sides.num_items)
    is_bad = inside & (is_item == 0)
    if MAY_BE_ELSEWHERE:
        is_bad = is_bad & (items != -1)
    if valid is not None:
        is_bad = is_bad | (inside & is_item & (tl.load(valid + items, mask=is_item, other=1) == 0))
    if tl.max(is_bad.to(tl.int32), axis=0) > 0:
        tl.store(bad, 1)
    query_rows = tl.minimum(rows, sides.num_queries - 1)
    scores = pair_scores(sides, query_rows, tl.where(is_item, items, 0), tile)
    tl.store(out + rows, tl.where(is_item, scores, float("-inf")), mask=inside)


def score_targets(
    operands: Operands, targets: Tensor, valid: Tensor | None, bad: Tensor, *, elsewhere: bool
) -> Tensor:
    """The score of each query's target, float32 [B]; -inf for those that are not in the table.

    `bad` is set if a target is out of range or not valid; with `elsewhere`, -1 is allowed.
    """
    sides, tile, options = operands
    out = torch.full((sides.num_queries,), -torch.inf, dtype=torch.float32, device=targets.device)
    if sides.num_items == 0:
        if not elsewhere and sides.num_queries:
            bad.fill_(1)
    elif sides.num_queries:
        grid = triton.cdiv(sides.num_queries, BLOCK)
        args = (targets.contiguous(), valid, bad, sides, tile, elsewhere)
        launch(_score_targets, grid, out, *args, **options)
    return out


@triton.jit
def _count_excluded(
    counts, target_scores, targets, keys, num_keys, valid, sides, tile: tl.constexpr
):
    BLOCK: tl.constexpr = tile.block
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slots < num_keys
    key = tl.load(keys + slots, mask=inside, other=-1)
    before = tl.load(keys + slots - 1, mask=inside & (slots > 0), other=-1)
    counted = inside & (key >= 0) & (key != before)  # repeats are next to each other
    rows = tl.where(counted, key // sides.num_items, 0)
    items = tl.where(counted, key % sides.num_items, 0)
    counted = counted & (items != tl.load(targets + rows).to(tl.int64))
    if valid is not None:
        counted = counted & (tl.load(valid + items) != 0)
    if tl.max(counted.to(tl.int32), axis=0) > 0:
        scores = pair_scores(sides, rows, items, tile)
        target_score = tl.load(target_scores + rows)
        less = tl.full([BLOCK], -1, tl.int64)
        above, tied, total = counts, counts + sides.num_queries, counts + 2 * sides.num_queries
        tl.atomic_add(above + rows, less, mask=counted & (scores > target_score))
        tl.atomic_add(tied + rows, less, mask=counted & (scores == target_score))
        tl.atomic_add(total + rows, less, mask=counted)


def count_excluded(
    operands: Operands,
    counts: Tensor,
    target_scores: Tensor,
    targets: Tensor,
    keys: Tensor,
    valid: Tensor | None,
) -> None:
    """Take excluded items out of the counts int64 [3, B]; `keys` are those of `exclusion_keys`."""
    sides, tile, options = operands
    if num_keys := keys.numel():
        args = (target_scores, targets.contiguous(), keys, num_keys, valid, sides, tile)
        launch(_count_excluded, triton.cdiv(num_keys, BLOCK), counts, *args, **options)
