"""Scores of each query's candidates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import Sides, launch
from rl4rec_kernels.ops.triton.rows import blocks_for, dot_rows, find_chunk, walk


@triton.jit
def _score_candidates(scores, sides, walk, bad, blocks: tl.constexpr):
    CHUNK: tl.constexpr = blocks.chunk
    ROWS: tl.constexpr = blocks.rows
    row, ids_begin, length, chunk = find_chunk(walk, sides.num_queries, bad)
    if row < sides.num_queries:
        if walk.offsets is not None:
            out = scores + ids_begin
        else:
            out = scores + row * walk.columns
        begin = chunk * CHUNK
        for start in range(begin, tl.minimum(begin + CHUNK, length), ROWS):
            slots = start + tl.arange(0, ROWS)
            inside = slots < length
            items = tl.load(walk.ids + ids_begin + slots, mask=inside, other=-1).to(tl.int64)
            is_item = (items >= 0) & (items < sides.num_items)
            is_bad = (is_item == 0) & (items != -1)
            if tl.max(is_bad.to(tl.int32), axis=0) > 0:
                tl.store(bad, 1)
            found = dot_rows(sides, row, items, is_item, blocks)
            found = tl.where(is_item, found, float("-inf"))
            found = tl.where(is_bad, float("nan"), found)
            tl.store(out + slots, found, mask=inside)


def score_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> Tensor:
    """As `ops.reference.score_candidates`, in float32; `bad` is set if an id is out of range."""
    num_rows, dim = query.shape
    scores = torch.empty(ids.shape, dtype=torch.float32, device=query.device)
    blocks = blocks_for(dim)
    candidates, programs = walk(ids, offsets, num_rows, blocks.chunk, shared=0)
    if programs and scores.numel():
        args = (Sides.of(query, table), candidates, bad, blocks)
        launch(_score_candidates, programs, scores, *args)
    return scores
