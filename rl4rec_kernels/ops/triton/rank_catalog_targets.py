"""Ranks of several targets per query among all items.

A tile of scores is computed once and compared with one target of every query after the other.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._arguments import Ids, Targets
from rl4rec_kernels.ops._target_lists import rank_in_lists
from rl4rec_kernels.ops.triton.launch import launch
from rl4rec_kernels.ops.triton.pairs import pair_scores
from rl4rec_kernels.ops.triton.tile import (
    BLOCK,
    Operands,
    is_row_of_item,
    operands,
    share_tiles,
    tile_scores,
)


@triton.jit
def _score_targets_of(out, targets, rows, num_targets, sides, tile: tl.constexpr):
    BLOCK: tl.constexpr = tile.block
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slots < num_targets
    row = tl.load(rows + slots, mask=inside, other=0)
    scores = pair_scores(sides, row, tl.load(targets + slots, mask=inside, other=0), tile)
    tl.store(out + slots, scores, mask=inside)


@triton.jit
def _count_targets(
    counts, target_scores, offsets, num_targets, valid, tiles_per_program, sides, tile: tl.constexpr
):  # fmt: skip
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    num_blocks = tl.cdiv(num_queries, BLOCK)
    rows = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    begin = tl.load(offsets + rows, mask=inside, other=0)
    end = tl.load(offsets + rows + 1, mask=inside, other=0)
    most = tl.max(end - begin, axis=0)
    rows = tl.minimum(rows, num_queries - 1)
    first = (tl.program_id(0) // num_blocks) * tiles_per_program
    for i in range(first, tl.minimum(first + tiles_per_program, tl.cdiv(num_items, BLOCK))):
        items = i * BLOCK + tl.arange(0, BLOCK)
        scores = tile_scores(sides, rows, tl.minimum(items, num_items - 1), tile)
        is_item = is_row_of_item(items, num_items, valid)[None, :]
        for t in range(0, most):
            has_target = begin + t < end
            target = tl.load(target_scores + begin + t, mask=has_target, other=float("inf"))[
                :, None
            ]
            above = tl.sum(((scores > target) & is_item).to(tl.int64), axis=1)
            tied = tl.sum(((scores == target) & is_item).to(tl.int64), axis=1)
            tl.atomic_add(counts + begin + t, above, mask=has_target)
            tl.atomic_add(counts + num_targets + begin + t, tied, mask=has_target)


@triton.jit
def _remove_excluded(
    counts, target_scores, offsets, num_targets, keys, num_keys, sides, tile: tl.constexpr
):  # fmt: skip
    BLOCK: tl.constexpr = tile.block
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + slots, mask=slots < num_keys, other=-1)
    counted = key >= 0
    rows = tl.where(counted, key // sides.num_items, 0)
    items = tl.where(counted, key % sides.num_items, 0)
    if tl.max(counted.to(tl.int32), axis=0) > 0:
        scores = pair_scores(sides, rows, items, tile)
        begin = tl.load(offsets + rows, mask=counted, other=0)
        end = tl.load(offsets + rows + 1, mask=counted, other=0)
        less = tl.full([BLOCK], -1, tl.int64)
        for t in range(0, tl.max(end - begin, axis=0)):
            has_target = begin + t < end
            target = tl.load(target_scores + begin + t, mask=has_target, other=float("inf"))
            above, tied = has_target & (scores > target), has_target & (scores == target)
            tl.atomic_add(counts + begin + t, less, mask=above)
            tl.atomic_add(counts + num_targets + begin + t, less, mask=tied)


def rank_catalog_targets(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    bad: Tensor,
) -> tuple[Tensor, ...]:
    """As `_target_lists.rank_in_lists`."""
    if source is not None:  # exact, and fast enough on the tensor cores
        table, row_stats = source, None
    valid = None if valid is None else valid.contiguous()
    both = operands(query, table, row_stats)

    def score(rows: Tensor, ids: Tensor) -> Tensor:
        return _score_all(both, ids, rows)

    def count(scores: Tensor, offsets: Tensor, keys: Tensor | None) -> Tensor:
        counts = torch.zeros((2, len(scores)), dtype=torch.int64, device=scores.device)
        _count_all(both, counts, scores, offsets, valid)
        if keys is not None:
            _remove(both, counts, scores, offsets, keys)
        return counts

    shape = query.shape[0], table.shape[0]
    own, others = Targets(targets, target_offsets), Ids(exclude, exclude_offsets)
    return rank_in_lists(shape, own, others, valid, bad, score, count)


def _score_all(operands: Operands, ids: Tensor, rows: Tensor) -> Tensor:
    sides, tile, options = operands
    out = torch.empty(len(ids), dtype=torch.float32, device=ids.device)
    grid = triton.cdiv(len(ids), BLOCK)
    launch(_score_targets_of, grid, out, ids, rows, len(ids), sides, tile, **options)
    return out


def _count_all(
    operands: Operands, counts: Tensor, scores: Tensor, offsets: Tensor, valid: Tensor | None
) -> None:
    """Count all valid items, the target and excluded ones too."""
    sides, tile, options = operands
    programs, tiles_per_program = share_tiles(sides)
    args: Any = (scores, offsets, len(scores), valid, tiles_per_program, sides, tile)
    launch(_count_targets, programs, counts, *args, **{**options, "maxnreg": None})


def _remove(
    operands: Operands, counts: Tensor, scores: Tensor, offsets: Tensor, keys: Tensor
) -> None:
    """Take excluded pairs out of the counts."""
    sides, tile, options = operands
    args: Any = (scores, offsets, len(scores), keys, len(keys), sides, tile)
    launch(_remove_excluded, triton.cdiv(len(keys), BLOCK), counts, *args, **options)
