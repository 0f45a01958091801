"""Ranks of targets among their candidates, and the metrics of these ranks, in one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import on_device, rows_of
from rl4rec_kernels.ops.triton.metrics import store_metrics
from rl4rec_kernels.ops.triton.rows import blocks_for, dot_rows, find_chunk, walk

_BAD = tl.constexpr(-(1 << 62))  # added to the total of a row with a bad id: it stays negative


@triton.jit
def _count_candidates(
    aboves, ties_of, totals, arrived, rewards, query, query_stride, table, table_stride, table_rows,
    ids, ids_stride, columns, offsets, first_chunk, chunk_row, num_rows, chunks_a_row, bad,
    RAGGED: tl.constexpr, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
    CHUNK: tl.constexpr, METRICS: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    row, ids_begin, length, chunk = find_chunk(
        tl.program_id(0).to(tl.int64), ids_stride, columns, offsets, first_chunk, chunk_row,
        num_rows, chunks_a_row, bad, RAGGED,
    )  # fmt: skip
    if row < num_rows:
        target = tl.load(ids + ids_begin, mask=length > 0, other=-1).to(tl.int64)
        is_bad = (target < 0) | (target >= table_rows)
        # The target leads each chunk, so that its score comes from the same arithmetic; place p
        # behind it is column chunk * (CHUNK - 1) + p.
        shift = chunk * (CHUNK - 1)
        target_score = tl.zeros([BLOCK_ROWS], tl.float32)
        above = 0 * row  # int64
        tied = 0 * row
        total = tl.where(chunk == 0, 1, 0) + 0 * row
        for start in range(0, tl.minimum(CHUNK, length - shift), BLOCK_ROWS):
            places = start + tl.arange(0, BLOCK_ROWS)
            inside = (places > 0) & (places < CHUNK) & (shift + places < length)
            items = tl.load(ids + ids_begin + shift + places, mask=inside, other=-1).to(tl.int64)
            items = tl.where(places == 0, target, items)
            is_item = (items >= 0) & (items < table_rows)
            is_bad = is_bad | (tl.max(((is_item == 0) & (items != -1)).to(tl.int32), axis=0) > 0)
            scores = dot_rows(query + row * query_stride, table, table_stride, items, is_item,
                              DIM, BLOCK_ROWS, BLOCK_DIM)  # fmt: skip
            if start == 0:
                target_score += tl.sum(tl.where(places == 0, scores, 0.0), axis=0)
            competes = inside & is_item & (items != target)
            # A NaN target ranks last; a NaN competitor is neither above nor tied.
            higher = competes & ((scores > target_score) | (target_score != target_score))
            same = competes & (scores == target_score)
            above += tl.sum(higher.to(tl.int32), axis=0)
            tied += tl.sum(same.to(tl.int32), axis=0)
            total += tl.sum(competes.to(tl.int32), axis=0)

        if is_bad:
            tl.store(bad, 1)
            total += _BAD
        if RAGGED:
            chunks = tl.load(first_chunk + row + 1) - tl.load(first_chunk + row)
        else:
            chunks = chunks_a_row + 0 * row
        is_last = chunks == 1
        if is_last == 0:
            tl.atomic_add(aboves + row, above)
            tl.atomic_add(ties_of + row, tied)
            tl.atomic_add(totals + row, total)
        if (is_last == 0) & (len(METRICS) > 0):
            # The chunk of a row that comes last finds the counts of all and makes the metrics.
            is_last = tl.atomic_add(arrived + row, 1, sem="acq_rel") == chunks - 1
            if is_last:
                above = tl.atomic_add(aboves + row, 0)
                tied = tl.atomic_add(ties_of + row, 0)
                total = tl.atomic_add(totals + row, 0)
        if is_last:
            if len(METRICS) > 0:
                one = tl.arange(0, 1)
                store_metrics(rewards + row * len(METRICS) + one, above + one, tied + one,
                              total + one, one == 0, METRICS, TIES)  # fmt: skip
            else:
                tl.store(aboves + row, above)
                tl.store(ties_of + row, tied)
                tl.store(totals + row, total)


def _count(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    bad: Tensor,
    metrics: tuple[tuple[int, int], ...],
    ties: int,
) -> tuple[list[Tensor], Tensor]:
    """Three counts int64 [B], or only metrics float32 [B, M] where some are asked for."""
    query, table = rows_of(query), rows_of(table)
    num_rows, dim = query.shape
    blocks = blocks_for(dim)
    w = walk(ids, offsets, num_rows, blocks.chunk, shared=1)
    counts = [torch.zeros(num_rows, dtype=torch.int64, device=query.device) for _ in range(3)]
    arrived = torch.zeros(num_rows if metrics else 0, dtype=torch.int32, device=query.device)
    rewards = torch.empty((num_rows, len(metrics)), dtype=torch.float32, device=query.device)
    if num_rows == 0:
        return counts, rewards
    with on_device(query):
        _count_candidates[(w.programs,)](
            *counts, arrived, rewards, query, query.stride(0), table, table.stride(0),
            table.shape[0], w.ids, w.stride, w.columns, w.offsets, w.first_chunk, w.chunk_row,
            num_rows, w.chunks_a_row, bad, RAGGED=offsets is not None, DIM=dim,
            BLOCK_ROWS=blocks.rows, BLOCK_DIM=blocks.dim, CHUNK=blocks.chunk, METRICS=metrics,
            TIES=ties, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return counts, rewards


def rank_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.reference.rank_candidates`.

    `bad` is raised if an id is out of range or a row has no target; such a row's total is negative.
    """
    (above, tied, total), _ = _count(query, table, ids, offsets, bad, (), 0)
    return above, tied, total


def reward_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
    bad: Tensor,
) -> Tensor:
    """As `ops.reference.reward_candidates`, float32; rewards of a bad row are NaN."""
    metrics = tuple(zip(kinds, cutoffs, strict=True))
    if not metrics:
        _count(query, table, ids, offsets, bad, (), 0)  # finds bad ids
        return torch.empty((query.shape[0], 0), dtype=torch.float32, device=query.device)
    return _count(query, table, ids, offsets, bad, metrics, ties)[1]
