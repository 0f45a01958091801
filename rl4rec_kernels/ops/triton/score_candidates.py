"""Scores of each query's candidates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import on_device, rows_of
from rl4rec_kernels.ops.triton.rows import blocks_for, dot_rows, find_chunk, walk


@triton.jit
def _score_candidates(
    scores, query, query_stride, table, table_stride, table_rows,
    ids, ids_stride, columns, offsets, first_chunk, chunk_row, num_rows, chunks_a_row, bad,
    RAGGED: tl.constexpr, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    row, ids_begin, length, chunk = find_chunk(
        tl.program_id(0).to(tl.int64), ids_stride, columns, offsets, first_chunk, chunk_row,
        num_rows, chunks_a_row, bad, RAGGED,
    )  # fmt: skip
    if row < num_rows:
        out = scores + (ids_begin if RAGGED else row * columns)
        begin = chunk * CHUNK
        for start in range(begin, tl.minimum(begin + CHUNK, length), BLOCK_ROWS):
            places = start + tl.arange(0, BLOCK_ROWS)
            inside = places < length
            items = tl.load(ids + ids_begin + places, mask=inside, other=-1).to(tl.int64)
            is_item = (items >= 0) & (items < table_rows)
            is_bad = (is_item == 0) & (items != -1)
            if tl.max(is_bad.to(tl.int32), axis=0) > 0:
                tl.store(bad, 1)
            found = dot_rows(query + row * query_stride, table, table_stride, items, is_item,
                             DIM, BLOCK_ROWS, BLOCK_DIM)  # fmt: skip
            found = tl.where(is_item, found, float("-inf"))
            found = tl.where(is_bad, float("nan"), found)
            tl.store(out + places, found, mask=inside)


def score_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> Tensor:
    """As `ops.reference.score_candidates`, in float32; `bad` is raised if an id is out of range."""
    query, table = rows_of(query), rows_of(table)
    num_rows, dim = query.shape
    scores = torch.empty(ids.shape, dtype=torch.float32, device=query.device)
    blocks = blocks_for(dim)
    w = walk(ids, offsets, num_rows, blocks.chunk, shared=0)
    if w.programs == 0 or scores.numel() == 0:
        return scores
    with on_device(query):
        _score_candidates[(w.programs,)](
            scores, query, query.stride(0), table, table.stride(0), table.shape[0],
            w.ids, w.stride, w.columns, w.offsets, w.first_chunk, w.chunk_row, num_rows,
            w.chunks_a_row, bad, RAGGED=offsets is not None, DIM=dim, BLOCK_ROWS=blocks.rows,
            BLOCK_DIM=blocks.dim, CHUNK=blocks.chunk, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return scores
