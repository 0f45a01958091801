"""Dot products of one query with rows of a table, and how candidates are shared out to programs.

A program takes one query and up to `CHUNK` of its candidates: rows of any length are balanced, and
a single long row is spread over the whole device. Triton lays a sum out over lanes by the width of
loads: so a table whose rows are not aligned to 16 bytes may round otherwise than a copy that is.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import rows_of

CHUNK = 128
_TILE = 4096  # values that a step of a program reads: 32 a thread, with four warps


class Blocks(NamedTuple):
    """Sizes of a step: they depend on the number of dimensions only, so that scores do."""

    rows: int
    dim: int
    chunk: int


def blocks_for(dim: int) -> Blocks:
    """Four steps over the dimensions, or more of 1,024 each; the rest of a tile are rows."""
    block_dim = min(1024, max(16, triton.next_power_of_2(triton.cdiv(max(dim, 1), 4))))
    block_rows = _TILE // block_dim
    return Blocks(block_rows, block_dim, max(CHUNK, block_rows))


@triton.jit
def dot_rows(
    query, table, table_stride, ids, is_item, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Scores of the rows `ids` of the table, float32 [BLOCK_ROWS]; 0 where there is no item.

    `query` points to its row. The steps are unrolled, so that the loads of all of them are in
    flight before the first sum.
    """
    sums = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    for start in tl.static_range(0, DIM, BLOCK_DIM):
        columns = start + tl.arange(0, BLOCK_DIM)
        inside = columns < DIM
        factors = tl.load(query + columns, mask=inside, other=0.0).to(tl.float32)
        rows = tl.load(
            table + ids[:, None] * table_stride + columns[None, :],
            mask=is_item[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        sums += factors[None, :] * rows
    return tl.sum(sums, axis=1)


class Walk(NamedTuple):
    """Candidates as kernels read them.

    Dense ids are ``ids[row * stride + column]``. Those of ragged rows begin at ``offsets[row]``,
    and ``first_chunk [B + 1]`` numbers the chunks of each row; ``chunk_row`` inverts that.
    """

    ids: Tensor
    stride: int
    columns: int
    offsets: Tensor | None
    first_chunk: Tensor | None
    chunk_row: Tensor | None
    programs: int
    chunks_a_row: int


def walk(ids: Tensor, offsets: Tensor | None, num_rows: int, chunk: int, shared: int) -> Walk:
    """Share candidates out to programs, `chunk` to each, of which `shared` are the row's own.

    Nothing waits for the device: ragged rows start as many programs as there could be chunks.
    """
    step = chunk - shared
    if offsets is None:
        ids = rows_of(ids)
        columns = ids.shape[1]
        chunks = max(1, triton.cdiv(columns - shared, step))
        return Walk(ids, ids.stride(0), columns, None, None, None, num_rows * chunks, chunks)
    ids, offsets = ids.contiguous(), offsets.contiguous()
    lengths = offsets.diff().clamp(0, max(1, ids.numel()))  # bad offsets are found by the kernel
    chunks_of_row = ((lengths - shared + step - 1) // step).clamp(min=1)
    first_chunk = torch.nn.functional.pad(chunks_of_row.cumsum(0), (1, 0))
    programs = ids.numel() // step + num_rows
    numbers = torch.arange(programs, device=ids.device)
    chunk_row = torch.searchsorted(first_chunk, numbers, right=True) - 1
    return Walk(ids, 0, ids.numel(), offsets, first_chunk, chunk_row, programs, 0)


@triton.jit
def find_chunk(
    program, stride, columns, offsets, first_chunk, chunk_row, num_rows, chunks_a_row,
    bad, RAGGED: tl.constexpr,
):  # fmt: skip
    """Which candidates a program has: (row, where its ids begin, how many they are, chunk).

    A program beyond the last chunk gets a row of `num_rows`.
    """
    if RAGGED:
        row = tl.load(chunk_row + program)
        inside = row < num_rows
        begin = tl.load(offsets + row, mask=inside, other=0)
        end = tl.load(offsets + row + 1, mask=inside, other=0)
        fits = (begin >= 0) & (begin <= end) & (end <= columns)
        fits = fits & ((row > 0) | (begin == 0)) & ((row < num_rows - 1) | (end == columns))
        if inside & (fits == 0):
            tl.store(bad, 1)
        begin = tl.where(fits, begin, 0)
        length = tl.where(fits, end - begin, 0)
        chunk = program - tl.load(first_chunk + row, mask=inside, other=0)
    else:
        row = program // chunks_a_row
        chunk = program % chunks_a_row
        begin = row * stride
        length = columns + 0 * row  # int64, also where Triton has made `columns` a constant
    return row, begin, length, chunk
