"""Ranks of targets among their candidates, and the metrics of these ranks, in one kernel."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import Sides, launch
from rl4rec_kernels.ops.triton.metrics import store_metrics
from rl4rec_kernels.ops.triton.rows import blocks_for, dot_rows, find_chunk, walk


@triton.jit
def _count_candidates(
    arrived, counts, results, sides, walk, bad, blocks: tl.constexpr, METRICS: tl.constexpr,
    TIES: tl.constexpr,
):  # fmt: skip
    CHUNK: tl.constexpr = blocks.chunk
    ROWS: tl.constexpr = blocks.rows
    aboves, ties_of, totals = counts
    num_rows, num_items = sides.num_queries, sides.num_items
    row, ids_begin, length, chunk = find_chunk(walk, num_rows, bad)
    if row < num_rows:
        target = tl.load(walk.ids + ids_begin, mask=length > 0, other=-1).to(tl.int64)
        is_bad = (target < 0) | (target >= num_items)
        # The target leads each chunk, so that its score comes from the same arithmetic; slot s
        # behind it is column chunk * (CHUNK - 1) + s.
        shift = chunk * (CHUNK - 1)
        target_score = tl.zeros([ROWS], tl.float32)
        above = 0 * row  # int64
        tied = 0 * row
        total = tl.where(chunk == 0, 1, 0) + 0 * row
        for start in range(0, tl.minimum(CHUNK, length - shift), ROWS):
            slots = start + tl.arange(0, ROWS)
            inside = (slots > 0) & (slots < CHUNK) & (shift + slots < length)
            ids = walk.ids + ids_begin + shift + slots
            items = tl.load(ids, mask=inside, other=-1).to(tl.int64)
            items = tl.where(slots == 0, target, items)
            is_item = (items >= 0) & (items < num_items)
            is_bad = is_bad | (tl.max(((is_item == 0) & (items != -1)).to(tl.int32), axis=0) > 0)
            scores = dot_rows(sides, row, items, is_item, blocks)
            if start == 0:
                target_score += tl.sum(tl.where(slots == 0, scores, 0.0), axis=0)
            competes = inside & is_item & (items != target)
            # A NaN target ranks last; a NaN competitor is neither above nor tied.
            higher = competes & ((scores > target_score) | (target_score != target_score))
            same = competes & (scores == target_score)
            above += tl.sum(higher.to(tl.int32), axis=0)
            tied += tl.sum(same.to(tl.int32), axis=0)
            total += tl.sum(competes.to(tl.int32), axis=0)

        if is_bad:
            tl.store(bad, 1)
            total -= length + 2  # chunks add up to `length` at most, or to 1: it stays negative
        if walk.offsets is not None:
            chunks = tl.load(walk.first_chunk + row + 1) - tl.load(walk.first_chunk + row)
        else:
            chunks = walk.chunks_per_row + 0 * row
        is_last = chunks == 1
        if is_last == 0:
            tl.atomic_add(aboves + row, above)
            tl.atomic_add(ties_of + row, tied)
            tl.atomic_add(totals + row, total)
        if (is_last == 0) & (METRICS is not None):
            # The last chunk of a row to finish finds the counts of all, and makes the metrics.
            is_last = tl.atomic_add(arrived + row, 1, sem="acq_rel") == chunks - 1
            if is_last:
                above = tl.atomic_add(aboves + row, 0)
                tied = tl.atomic_add(ties_of + row, 0)
                total = tl.atomic_add(totals + row, 0)
        if is_last:
            if METRICS is not None:
                one = tl.arange(0, 1)
                out = results[0] + row * len(METRICS) + one
                store_metrics(out, above + one, tied + one, total + one, one == 0, METRICS, TIES)
            else:
                tl.store(aboves + row, above)
                tl.store(ties_of + row, tied)
                tl.store(totals + row, total)


def rank_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    bad: Tensor,
    metrics: tuple[tuple[int, int], ...] | None = None,
    ties: int = 0,
) -> tuple[Tensor, ...]:
    """As `ops.reference.rank_candidates`; if `metrics` are given, only these: float32 [B, M].

    `bad` is set if an id is out of range or a row has no target; such a row's total is negative.
    """
    num_rows, dim = query.shape
    device = query.device
    results = counts = tuple(
        torch.zeros(num_rows, dtype=torch.int64, device=device) for _ in range(3)
    )
    if metrics is not None:
        results = (torch.empty((num_rows, len(metrics)), dtype=torch.float32, device=device),)
    arrived = torch.zeros(0 if metrics is None else num_rows, dtype=torch.int32, device=device)
    if num_rows:
        blocks = blocks_for(dim)
        candidates, programs = walk(ids, offsets, num_rows, blocks.chunk, shared=1)
        args = (counts, results, Sides.of(query, table), candidates, bad, blocks, metrics, ties)
        launch(_count_candidates, programs, arrived, *args)
    return results


def reward_candidates(*args: Any) -> Tensor:
    """Metrics float32 [B, M] of the ranks that `rank_candidates` counts; NaN for a bad row."""
    *candidates, kinds, cutoffs, ties, bad = args
    arguments: Any = (*candidates, bad, tuple(zip(kinds, cutoffs, strict=True)), ties)
    return rank_candidates(*arguments)[0]
