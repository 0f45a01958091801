"""Dot products of one query with rows of a table, and how programs share the candidates.

A program takes one query and up to `CHUNK` of its candidates: rows of any length are balanced, and
a single long row is spread over the whole device. Triton lays out a sum over lanes by the width of
loads: so a table whose rows are not aligned to 16 bytes may round differently from a copy that is.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import is_open, rows_of, to_float32

CHUNK = 128
_TILE = 4096  # values that a step of a program reads: 32 per thread, with four warps


class Blocks(NamedTuple):
    """Constants of a step; they depend only on the number of dimensions, so that scores do."""

    num_dims: int
    rows: int
    dim: int
    chunk: int


def blocks_for(num_dims: int) -> Blocks:
    """Four steps over the dimensions, or more of 1,024 each; the rest of a tile are rows."""
    dim = min(1024, max(16, triton.next_power_of_2(triton.cdiv(max(num_dims, 1), 4))))
    rows = _TILE // dim
    return Blocks(num_dims, rows, dim, max(CHUNK, rows))


@triton.jit
def dot_rows(sides, query_row, ids, is_item, blocks: tl.constexpr):
    """Scores of a query and the items `ids`, float32 [blocks.rows]; 0 where there is no item.

    The steps are unrolled, so that the loads of all of them are in flight before the first sum.
    """
    ROWS: tl.constexpr = blocks.rows
    DIM: tl.constexpr = blocks.num_dims
    BLOCK_DIM: tl.constexpr = blocks.dim
    query = sides.query + query_row * sides.query_stride
    sums = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    for start in tl.static_range(0, DIM, BLOCK_DIM):
        columns = start + tl.arange(0, BLOCK_DIM)
        inside = columns < DIM
        factors = to_float32(tl.load(query + columns, mask=inside, other=0.0))
        rows = tl.load(
            sides.table + ids[:, None] * sides.table_stride + columns[None, :],
            mask=is_item[:, None] & inside[None, :],
            other=0.0,
        )
        sums += factors[None, :] * to_float32(rows)
    scores = tl.sum(sums, axis=1)
    if tl.max(is_open(scores).to(tl.int32), axis=0) > 0:
        exact = _float64_scores(sides, query_row, ids, is_item, blocks)
        scores = tl.where(is_open(scores), exact, scores)
    return scores


@triton.jit
def _float64_scores(sides, query_row, ids, is_item, blocks: tl.constexpr):
    """The scores of `dot_rows`, added up in float64."""
    ROWS: tl.constexpr = blocks.rows
    DIM: tl.constexpr = blocks.num_dims
    STEP: tl.constexpr = 16
    exact = tl.zeros([ROWS], tl.float64)
    for start in range(0, DIM + 0 * tl.program_id(0), STEP):  # not a constant: not unrolled
        columns = start + tl.arange(0, STEP)
        inside = columns < DIM
        query = sides.query + query_row * sides.query_stride + columns
        factors = to_float32(tl.load(query, mask=inside, other=0.0)).to(tl.float64)
        rows = tl.load(
            sides.table + ids[:, None] * sides.table_stride + columns[None, :],
            mask=is_item[:, None] & inside[None, :],
            other=0.0,
        )
        exact += tl.sum(factors[None, :] * to_float32(rows).to(tl.float64), axis=1)
    return exact.to(tl.float32)


class Walk(NamedTuple):
    """Candidates as kernels read them.

    Dense ids are ``ids[row * stride + column]``. Those of ragged rows begin at ``offsets[row]``,
    and ``first_chunk [B + 1]`` numbers the chunks of each row; ``chunk_row`` inverts that.
    """

    ids: Tensor
    stride: int
    columns: int
    chunks_per_row: int
    offsets: Tensor | None = None
    first_chunk: Tensor | None = None
    chunk_row: Tensor | None = None


def walk(
    ids: Tensor, offsets: Tensor | None, num_rows: int, chunk: int, shared: int
) -> tuple[Walk, int]:
    """Share candidates among programs, and count these.

    A program takes `chunk` candidates, of which `shared` are in all chunks of a row. Nothing waits
    for the device: for ragged rows there are as many programs as there could be chunks.
    """
    step = chunk - shared
    if offsets is None:
        ids = rows_of(ids)
        columns = ids.shape[1]
        chunks = max(1, triton.cdiv(columns - shared, step))
        return Walk(ids, ids.stride(0), columns, chunks), num_rows * chunks
    ids, offsets = ids.contiguous(), offsets.contiguous()
    lengths = offsets.diff().clamp(0, max(1, ids.numel()))  # the kernel finds bad offsets
    chunks_of_row = ((lengths - shared + step - 1) // step).clamp(min=1)
    first_chunk = torch.nn.functional.pad(chunks_of_row.cumsum(0), (1, 0))
    programs = ids.numel() // step + num_rows
    numbers = torch.arange(programs, dtype=torch.int64, device=ids.device)
    chunk_row = torch.searchsorted(first_chunk, numbers, right=True) - 1
    return Walk(ids, 0, ids.numel(), 0, offsets, first_chunk, chunk_row), programs


@triton.jit
def find_chunk(walk, num_rows, bad):
    """Which candidates a program has: (row, where its ids begin, how many they are, chunk).

    A program beyond the last chunk gets a row of `num_rows`.
    """
    program = tl.program_id(0).to(tl.int64)
    if walk.offsets is not None:
        row = tl.load(walk.chunk_row + program)
        inside = row < num_rows
        begin = tl.load(walk.offsets + row, mask=inside, other=0)
        end = tl.load(walk.offsets + row + 1, mask=inside, other=0)
        fits = (begin >= 0) & (begin <= end) & (end <= walk.columns)
        fits = fits & ((row > 0) | (begin == 0)) & ((row < num_rows - 1) | (end == walk.columns))
        if inside & (fits == 0):
            tl.store(bad, 1)
        begin = tl.where(fits, begin, 0)
        length = tl.where(fits, end - begin, 0)
        chunk = program - tl.load(walk.first_chunk + row, mask=inside, other=0)
    else:
        row = program // walk.chunks_per_row
        chunk = program % walk.chunks_per_row
        begin = row * walk.stride
        length = walk.columns + 0 * row  # int64, also if Triton has made `columns` a constant
    return row, begin, length, chunk
