"""Ranks of several targets per query among all items.

A tile of scores is computed once and compared with one target of every query after the other.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._arguments import Targets
from rl4rec_kernels.ops._blocks import have_repeats, row_of_each
from rl4rec_kernels.ops._exclusions import exclusion_keys
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


def _excluded_keys(
    exclude: Tensor,
    exclude_offsets: Tensor | None,
    num_items: int,
    targets: Tensor,
    valid: Tensor | None,
    num_queries: int,
    bad: Tensor,
) -> Tensor:
    """Pairs to take out of the counts as numbers row * N + id: each once; -1 for what stays in.

    `targets` are the pairs of targets, sorted. No shape depends on values, so that a CUDA graph can
    be captured.
    """
    keys = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
    stays = keys == torch.nn.functional.pad(keys[:-1], (1, 0), value=-1)  # repeats
    at = torch.searchsorted(targets, keys).clamp(max=len(targets) - 1)
    stays |= targets[at] == keys
    if valid is not None:
        stays |= ~valid[keys.clamp(min=0) % num_items]
    return keys.masked_fill(stays, -1)


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
    """As `ops.reference.rank_catalog_targets`.

    `bad` is set if an id is out of range, or a target is not valid or repeated. The total of a
    target that is out of range is negative.
    """
    if source is not None:  # exact, and fast enough on the tensor cores
        table, row_stats = source, None
    num_queries, num_items, num_targets = query.shape[0], table.shape[0], targets.shape[0]
    counts = torch.zeros((2, num_targets), dtype=torch.int64, device=query.device)
    if num_queries == 0 or num_targets == 0:
        return counts[0], counts[1], counts[0].clone()
    if num_items == 0:
        bad.fill_(1)
        return counts[0], counts[1], counts[0] - 1
    offsets, own = target_offsets.contiguous(), Targets(targets.long(), target_offsets)
    fits = (offsets[0] == 0) & (offsets[-1] == num_targets) & (offsets.diff() >= 0).all()
    is_here = (own.values >= 0) & (own.values < num_items)
    ids = torch.where(is_here, own.values, 0)
    bad |= ~fits | ~is_here.all() | have_repeats(own, num_items)
    if valid is not None:
        valid = valid.contiguous()
        bad |= ~valid[ids].all()
    rows = row_of_each(own)
    offsets = torch.where(fits, offsets, 0)  # else there is an error, whatever is counted
    both = operands(query, table, row_stats)
    scores = _score_all(both, ids, rows)
    total = _count_all(both, counts, scores, offsets, valid)
    if exclude is not None and exclude.numel():
        pairs = (rows * num_items + ids).sort().values
        keys = _excluded_keys(exclude, exclude_offsets, num_items, pairs, valid, num_queries, bad)
        total = total - _remove(both, counts, scores, offsets, keys)[rows]
    is_nan = scores.isnan()  # they share the last ranks
    num_nan = counts.new_zeros(num_queries).index_add(0, rows, is_nan.long())[rows]
    above = torch.where(is_nan, total - num_nan, counts[0])
    tied = torch.where(is_nan, num_nan, counts[1]) - 1  # not with itself
    return above, tied, torch.where(is_here, total, -1).expand(num_targets).contiguous()


def _score_all(operands: Operands, ids: Tensor, rows: Tensor) -> Tensor:
    sides, tile, options = operands
    out = torch.empty(len(ids), dtype=torch.float32, device=ids.device)
    grid = triton.cdiv(len(ids), BLOCK)
    launch(_score_targets_of, grid, out, ids, rows, len(ids), sides, tile, **options)
    return out


def _count_all(
    operands: Operands, counts: Tensor, scores: Tensor, offsets: Tensor, valid: Tensor | None
) -> Tensor:
    """Count all valid items, the target and excluded ones too; return how many there are."""
    sides, tile, options = operands
    programs, tiles_per_program = share_tiles(sides)
    args: Any = (scores, offsets, len(scores), valid, tiles_per_program, sides, tile)
    launch(_count_targets, programs, counts, *args, **{**options, "maxnreg": None})
    return counts.new_tensor(sides.num_items) if valid is None else valid.sum()


def _remove(
    operands: Operands, counts: Tensor, scores: Tensor, offsets: Tensor, keys: Tensor
) -> Tensor:
    """Take excluded pairs out of the counts; return how many each query has, int64 [B]."""
    sides, tile, options = operands
    args: Any = (scores, offsets, len(scores), keys, len(keys), sides, tile)
    launch(_remove_excluded, triton.cdiv(len(keys), BLOCK), counts, *args, **options)
    num_excluded = counts.new_zeros(sides.num_queries)
    return num_excluded.index_add(0, keys.clamp(min=0) // sides.num_items, (keys >= 0).long())
