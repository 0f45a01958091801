"""Scores of single pairs by the arithmetic of a tile: of targets and of excluded items.

A program takes as many pairs as a tile has rows, multiplies all their queries with all their items
and keeps the diagonal. That is wasteful and still little work beside the catalog; it makes a pair's
score the one it has there, to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import on_device
from rl4rec_kernels.ops.triton.tile import BLOCK, Operands, tile_scores


@triton.jit
def _diagonal(scores, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    return tl.sum(tl.where(places[:, None] == places[None, :], scores, 0.0), axis=1)


@triton.jit
def _score_targets(
    out, targets, valid, bad, query, query_stride, num_queries, query_scale, table, table_stride,
    num_items, table_scale, HAS_VALID: tl.constexpr, ELSEWHERE: tl.constexpr,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    items = tl.load(targets + rows, mask=inside, other=0).to(tl.int64)
    is_item = (items >= 0) & (items < num_items)
    is_bad = inside & (is_item == 0)
    if ELSEWHERE:
        is_bad = is_bad & (items != -1)
    if HAS_VALID:
        is_bad = is_bad | (inside & is_item & (tl.load(valid + items, mask=is_item, other=1) == 0))
    if tl.max(is_bad.to(tl.int32), axis=0) > 0:
        tl.store(bad, 1)
    scores = tile_scores(
        query, query_stride, query_scale, table, table_stride, table_scale,
        tl.minimum(rows, num_queries - 1), tl.where(is_item, items, 0), DIM, BLOCK, BLOCK_DIM,
        DTYPE, PRECISION, SCALED,
    )  # fmt: skip
    found = tl.where(is_item, _diagonal(scores, BLOCK), float("-inf"))
    tl.store(out + rows, found, mask=inside)


def score_targets(
    operands: Operands, targets: Tensor, valid: Tensor | None, bad: Tensor, *, elsewhere: bool
) -> Tensor:
    """The score of each query's target, float32 [B]; -inf for those that are not in the table.

    `bad` is raised if a target is out of range or not valid; with `elsewhere`, -1 is in order.
    """
    num_queries = operands.query.shape[0]
    out = torch.full((num_queries,), -torch.inf, device=targets.device)
    if operands.table.shape[0] == 0:
        return out if elsewhere else _raise_flag(bad, out)
    if num_queries:
        with on_device(targets):
            _score_targets[(triton.cdiv(num_queries, BLOCK),)](
                out, targets.contiguous(), valid, bad, *operands.arguments,
                HAS_VALID=valid is not None, ELSEWHERE=elsewhere, **operands.options,
            )  # fmt: skip
    return out


def _raise_flag(bad: Tensor, out: Tensor) -> Tensor:
    """No target can be in a table without rows."""
    if out.numel():
        bad.fill_(1)
    return out


@triton.jit
def _count_excluded(
    counts, target_scores, targets, keys, num_keys, valid, query, query_stride, num_queries,
    query_scale, table, table_stride, num_items, table_scale, HAS_VALID: tl.constexpr,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < num_keys
    key = tl.load(keys + places, mask=inside, other=-1)
    before = tl.load(keys + places - 1, mask=inside & (places > 0), other=-1)
    counted = inside & (key >= 0) & (key != before)  # repeats stand side by side
    rows = tl.where(counted, key // num_items, 0)
    items = tl.where(counted, key % num_items, 0)
    counted = counted & (items != tl.load(targets + rows).to(tl.int64))
    if HAS_VALID:
        counted = counted & (tl.load(valid + items) != 0)
    if tl.max(counted.to(tl.int32), axis=0) > 0:
        scores = _diagonal(
            tile_scores(
                query, query_stride, query_scale, table, table_stride, table_scale, rows, items,
                DIM, BLOCK, BLOCK_DIM, DTYPE, PRECISION, SCALED,
            ),
            BLOCK,
        )  # fmt: skip
        target_score = tl.load(target_scores + rows)
        less = tl.full([BLOCK], -1, tl.int64)
        tl.atomic_add(counts + rows, less, mask=counted & (scores > target_score))
        tl.atomic_add(counts + num_queries + rows, less, mask=counted & (scores == target_score))
        tl.atomic_add(counts + 2 * num_queries + rows, less, mask=counted)


def count_excluded(
    operands: Operands,
    counts: Tensor,
    target_scores: Tensor,
    targets: Tensor,
    keys: Tensor,
    valid: Tensor | None,
) -> None:
    """Take excluded items out of the counts int64 [3, B]; `keys` are those of `exclusion_keys`."""
    if keys.numel() == 0:
        return
    with on_device(keys):
        _count_excluded[(triton.cdiv(keys.numel(), BLOCK),)](
            counts, target_scores, targets.contiguous(), keys, keys.numel(), valid,
            *operands.arguments, HAS_VALID=valid is not None, **operands.options,
        )  # fmt: skip


def exclusion_keys(
    exclude: Tensor, offsets: Tensor | None, num_queries: int, num_items: int, bad: Tensor
) -> Tensor:
    """Excluded pairs as sorted numbers row * N + id, int64; -1 for padding and bad ids.

    `bad` is raised if an id is out of range, or offsets do not fit.
    """
    if offsets is None:
        rows = torch.arange(num_queries, device=exclude.device)[:, None].expand_as(exclude)
    else:
        exclude = exclude.contiguous()
        places = torch.arange(exclude.numel(), device=exclude.device)
        rows = torch.searchsorted(offsets.contiguous(), places, right=True) - 1
        fits = (offsets[0] == 0) & (offsets[-1] == exclude.numel()) & (offsets.diff() >= 0).all()
        bad |= ~fits
        rows = rows.clamp(0, num_queries - 1)
    ids = exclude.long()
    known = (ids >= 0) & (ids < num_items)
    bad |= (~known & (ids != -1)).any()
    return torch.where(known, rows * num_items + ids, -1).reshape(-1).sort().values
