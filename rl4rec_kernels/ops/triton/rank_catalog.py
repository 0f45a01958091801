"""Ranks of targets among all items, and the metrics of these ranks.

Scores are compared where they are made: nothing of size [B, N] is written. Excluded items are
counted with all others and then taken out again by `pairs`, which is exact and needs no look-up
while the tensor cores wait.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import on_device
from rl4rec_kernels.ops.triton.metrics import store_metrics
from rl4rec_kernels.ops.triton.pairs import count_excluded, exclusion_keys, score_targets
from rl4rec_kernels.ops.triton.tile import BLOCK, Operands, operands, share_tiles, tile_scores


@triton.jit
def _count_catalog(
    counts, target_scores, valid, tiles_a_program, query, query_stride, num_queries, query_scale,
    table, table_stride, num_items, table_scale, HAS_VALID: tl.constexpr,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    # Programs that run at the same time share items: these are read from memory once.
    num_blocks = tl.cdiv(num_queries, BLOCK)
    rows = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    target = tl.load(target_scores + rows, mask=inside, other=float("inf"))[:, None]
    rows = tl.minimum(rows, num_queries - 1)
    above = tl.zeros([BLOCK], tl.int32)
    tied = tl.zeros([BLOCK], tl.int32)
    first = (tl.program_id(0) // num_blocks) * tiles_a_program
    for tile in range(first, tl.minimum(first + tiles_a_program, tl.cdiv(num_items, BLOCK))):
        items = tile * BLOCK + tl.arange(0, BLOCK)
        scores = tile_scores(
            query, query_stride, query_scale, table, table_stride, table_scale, rows,
            tl.minimum(items, num_items - 1), DIM, BLOCK, BLOCK_DIM, DTYPE, PRECISION, SCALED,
        )  # fmt: skip
        is_item = items < num_items
        if HAS_VALID:  # read now: the registers were full before
            is_item = is_item & (tl.load(valid + items, mask=is_item, other=0) != 0)
        # Comparisons with NaN are false: it is neither above nor tied.
        above += tl.sum(((scores > target) & is_item[None, :]).to(tl.int32), axis=1)
        tied += tl.sum(((scores == target) & is_item[None, :]).to(tl.int32), axis=1)
    tl.atomic_add(counts + rows, above.to(tl.int64), mask=inside)
    tl.atomic_add(counts + num_queries + rows, tied.to(tl.int64), mask=inside)


@triton.jit
def _finish(
    aboves, ties_of, totals, rewards, counts, target_scores, targets, num_items, num_queries,
    BLOCK: tl.constexpr, ELSEWHERE: tl.constexpr, METRICS: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    """Take the target out of its own competitors, and make the metrics."""
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
    if ELSEWHERE:
        is_bad = is_bad & (target != -1)
    total = tl.where(is_bad, -1, total)
    if len(METRICS) > 0:
        store_metrics(rewards + rows * len(METRICS), above, tied, total, inside, METRICS, TIES)
    else:
        tl.store(aboves + rows, above, mask=inside)
        tl.store(ties_of + rows, tied, mask=inside)
        tl.store(totals + rows, total, mask=inside)


def _count_all(
    operands: Operands, counts: Tensor, target_scores: Tensor, valid: Tensor | None
) -> None:
    """Count all valid items, the target and excluded ones among them."""
    num_items = operands.table.shape[0]
    counts[2] = num_items if valid is None else valid.sum()
    if num_items == 0:
        return
    programs, tiles_a_program = share_tiles(operands)
    with on_device(operands.query):
        _count_catalog[(programs,)](
            counts, target_scores, valid, tiles_a_program, *operands.arguments,
            HAS_VALID=valid is not None, **operands.options,
        )  # fmt: skip


def _rank(
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
    metrics: tuple[tuple[int, int], ...] = (),
    ties: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """Three counts int64 [B], or only metrics float32 [B, M] where some are asked for."""
    if source is not None:  # exact, and fast enough on the tensor cores
        table, row_stats = source, None
    sides = operands(query, table, row_stats)
    num_queries, num_items = query.shape[0], table.shape[0]
    results = [torch.empty(num_queries, dtype=torch.int64, device=query.device) for _ in range(3)]
    rewards = torch.empty((num_queries, len(metrics)), device=query.device)
    if num_queries == 0:
        return results, rewards
    counts = torch.zeros((3, num_queries), dtype=torch.int64, device=query.device)
    elsewhere = target_scores is not None
    scores = score_targets(sides, targets, valid, bad, elsewhere=elsewhere)
    if target_scores is not None:
        scores = target_scores.contiguous()
    _count_all(sides, counts, scores, valid)
    if exclude is not None and exclude.numel() and num_items:
        keys = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
        count_excluded(sides, counts, scores, targets, keys, valid)
    with on_device(query):
        _finish[(triton.cdiv(num_queries, BLOCK),)](
            *results, rewards, counts, scores, targets.contiguous(), num_items, num_queries,
            BLOCK=BLOCK, ELSEWHERE=elsewhere, METRICS=metrics, TIES=ties, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
    return results, rewards


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
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.reference.rank_catalog`; `target_scores` are given where targets are elsewhere (-1).

    `bad` is raised if an id is out of range or a target is not valid. The total of a row whose
    target is out of range is negative.
    """
    (above, tied, total), _ = _rank(
        query,
        table,
        targets,
        exclude,
        exclude_offsets,
        valid,
        row_stats,
        source,
        target_scores,
        bad,
    )
    return above, tied, total


def reward_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
    bad: Tensor,
) -> Tensor:
    """Metrics float32 [B, M] of the ranks that `rank_catalog` counts."""
    metrics = tuple(zip(kinds, cutoffs, strict=True))
    return _rank(
        query, table, targets, exclude, exclude_offsets, valid, row_stats, source, None, bad,
        metrics, ties,
    )[1]  # fmt: skip


def score_catalog_targets(
    query: Tensor, table: Tensor, targets: Tensor, row_stats: Tensor | None, bad: Tensor
) -> Tensor:
    """The scores that `rank_catalog` compares with, float32 [B]; -inf for targets of -1."""
    return score_targets(operands(query, table, row_stats), targets, None, bad, elsewhere=True)
