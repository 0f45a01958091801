"""Ranks of targets among all items, and the metrics of these ranks.

Scores are compared where they are computed: nothing of size [B, N] is written. Excluded items are
counted with all others and then taken out again by `pairs`, which is exact and needs no look-up
while the tensor cores wait.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._exclusions import exclusion_keys
from rl4rec_kernels.ops.triton.launch import is_open, launch
from rl4rec_kernels.ops.triton.metrics import store_metrics
from rl4rec_kernels.ops.triton.pairs import count_excluded, score_targets
from rl4rec_kernels.ops.triton.tile import (
    BLOCK,
    Operands,
    is_row_of_item,
    operands,
    share_tiles,
    tile_scores,
)


@triton.jit
def _count_catalog(
    counts, left, target_scores, valid, tiles_per_program, sides, tile: tl.constexpr
):  # fmt: skip
    """Count, or leave it to the program of the same number of `_recount_catalog`.

    Scoring pairs again takes registers that the common case, in which all are finite, needs.
    """
    _count(counts, left, target_scores, valid, tiles_per_program, sides, tile, False)


@triton.jit
def _recount_catalog(
    counts, left, target_scores, valid, tiles_per_program, sides, tile: tl.constexpr
):  # fmt: skip
    if tl.load(left + tl.program_id(0)) != 0:
        _count(counts, left, target_scores, valid, tiles_per_program, sides, tile, True)


@triton.jit
def _count(
    counts, left, target_scores, valid, tiles_per_program, sides, tile: tl.constexpr,
    SETTLE: tl.constexpr,
):  # fmt: skip
    # Programs that run at the same time share items: these are read from memory once.
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    num_blocks = tl.cdiv(num_queries, BLOCK)
    rows = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    target = tl.load(target_scores + rows, mask=inside, other=float("inf"))[:, None]
    rows = tl.minimum(rows, num_queries - 1)
    above = tl.zeros([BLOCK], tl.int32)
    tied = tl.zeros([BLOCK], tl.int32)
    first = (tl.program_id(0) // num_blocks) * tiles_per_program
    for i in range(first, tl.minimum(first + tiles_per_program, tl.cdiv(num_items, BLOCK))):
        items = i * BLOCK + tl.arange(0, BLOCK)
        scores = tile_scores(sides, rows, tl.minimum(items, num_items - 1), tile, SETTLE)
        # `valid` is read after the scores, which leave no free registers while they are computed.
        is_item = is_row_of_item(items, num_items, valid)[None, :]
        # Comparisons with NaN are false: it is neither above nor tied. A tile is counted in
        # float32, which is exact, and of which a multiprocessor adds twice as many at a time.
        above += tl.sum(((scores > target) & is_item).to(tl.float32), axis=1).to(tl.int32)
        same = ((scores == target) & is_item).to(tl.float32)
        if SETTLE:
            tied += tl.sum(same, axis=1).to(tl.int32)
        else:  # no sum and no register more: they are below 2^8, and `tied` becomes negative
            both = tl.sum(tl.where(is_open(scores), 256.0, same), axis=1).to(tl.int32)
            tied = tl.where(both > 255, -(1 << 30), tied + both)
    if not SETTLE:
        is_left = tl.min(tied, axis=0) < 0
        tl.store(left + tl.program_id(0), is_left.to(tl.int32))
        inside = inside & (tl.zeros_like(tied) + is_left.to(tl.int32) == 0)
    tl.atomic_add(counts + rows, above.to(tl.int64), mask=inside)
    tl.atomic_add(counts + num_queries + rows, tied.to(tl.int64), mask=inside)


@triton.jit
def _finish(
    counts, results, target_scores, targets, num_items, num_queries, BLOCK: tl.constexpr,
    MAY_BE_ELSEWHERE: tl.constexpr, METRICS: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    """Take the target out of its own competitors; store the counts, or metrics of them."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    target = tl.load(targets + rows, mask=inside, other=0).to(tl.int64)
    score = tl.load(target_scores + rows, mask=inside, other=0.0)
    above = tl.load(counts + rows, mask=inside, other=0)
    tied = tl.load(counts + num_queries + rows, mask=inside, other=0)
    total = tl.load(counts + 2 * num_queries + rows, mask=inside, other=1)
    is_here = (target >= 0) & (target < num_items)
    is_nan = score != score
    tied -= (is_here & (is_nan == 0)).to(tl.int64)  # with itself
    total += (is_here == 0).to(tl.int64)  # it counts wherever it is
    above = tl.where(is_nan, total - 1, above)  # a NaN target ranks last
    is_bad = is_here == 0
    if MAY_BE_ELSEWHERE:
        is_bad = is_bad & (target != -1)
    total = tl.where(is_bad, -1, total)
    if METRICS is not None:
        out = results[0] + rows * len(METRICS)
        store_metrics(out, above, tied, total, inside, METRICS, TIES)
    else:
        tl.store(results[0] + rows, above, mask=inside)
        tl.store(results[1] + rows, tied, mask=inside)
        tl.store(results[2] + rows, total, mask=inside)


def _count_all(
    operands: Operands, counts: Tensor, target_scores: Tensor, valid: Tensor | None
) -> None:
    """Count all valid items, including the target and excluded ones."""
    sides, tile, options = operands
    counts[2] = sides.num_items if valid is None else valid.sum()
    if sides.num_items:
        programs, tiles_per_program = share_tiles(sides)
        left = torch.empty(programs, dtype=torch.int32, device=counts.device)
        args = (left, target_scores, valid, tiles_per_program, sides, tile)
        launch(_count_catalog, programs, counts, *args, **options)
        launch(_recount_catalog, programs, counts, *args, **{**options, "maxnreg": None})


def rank_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    target_scores: Tensor | None,
    bad: Tensor,
    metrics: tuple[tuple[int, int], ...] | None = None,
    ties: int = 0,
) -> tuple[Tensor, ...]:
    """As `ops.reference.rank_catalog`; if `metrics` are given, only these: float32 [B, M].

    `target_scores` are given if targets may be elsewhere (-1). `bad` is set if an id is out of
    range or a target is not valid. The total of a row whose target is out of range is negative.
    """
    if source is not None:  # exact, and fast enough on the tensor cores
        table, row_stats = source, None
    valid = None if valid is None else valid.contiguous()
    num_queries, num_items = query.shape[0], table.shape[0]
    counts = torch.zeros((3, num_queries), dtype=torch.int64, device=query.device)
    if metrics is None:
        results = tuple(torch.empty_like(count) for count in counts)
    else:
        shape = num_queries, len(metrics)
        results = (torch.empty(shape, dtype=torch.float32, device=query.device),)
    if num_queries == 0:
        return results
    both = operands(query, table, row_stats)
    elsewhere = target_scores is not None
    scores = score_targets(both, targets, valid, bad, elsewhere=elsewhere)
    if target_scores is not None:
        scores = target_scores.contiguous()
    _count_all(both, counts, scores, valid)
    if exclude is not None and exclude.numel() and num_items:
        keys = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
        count_excluded(both, counts, scores, targets, keys, valid)
    args = (results, scores, targets.contiguous(), num_items, num_queries, BLOCK, elsewhere)
    launch(_finish, triton.cdiv(num_queries, BLOCK), counts, *args, metrics, ties)
    return results


def reward_catalog(*args: Any) -> Tensor:
    """Metrics float32 [B, M] of the ranks that `rank_catalog` counts."""
    *catalog, kinds, cutoffs, ties, bad = args
    arguments: Any = (*catalog, None, bad, tuple(zip(kinds, cutoffs, strict=True)), ties)
    return rank_catalog(*arguments)[0]


def score_catalog_targets(
    query: Tensor, table: Tensor, targets: Tensor, row_stats: Tensor | None, bad: Tensor
) -> Tensor:
    """The scores that `rank_catalog` compares with, float32 [B]; -inf for targets of -1."""
    return score_targets(operands(query, table, row_stats), targets, None, bad, elsewhere=True)
