"""Scores of a tile of queries and items on the tensor cores, the heart of the catalog operators.

A score is one chain of matrix instructions over the dimensions, the same for each slot of a tile:
it depends only on its query and its item. Tiles have one size whatever the batch, so that targets
and excluded items, which are scored apart, get exactly the scores they have in the catalog.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._rounding import round_queries
from rl4rec_kernels.ops.triton.launch import (
    Sides,
    is_hopper,
    is_open,
    processors,
    to_float32,
)

BLOCK = 128
"""Queries and items of a tile. Two programs fit on a multiprocessor: one compares scores while the
other multiplies."""


class Tile(NamedTuple):
    """The constants of `tile_scores`."""

    dim: int
    block: int
    block_dim: int
    dtype: tl.dtype
    precision: str


class Operands(NamedTuple):
    """Queries and items of a catalog, and how kernels that score tiles of them are compiled."""

    sides: Sides
    tile: Tile
    options: dict[str, Any]

    def part(self, rows: slice) -> "Operands":
        """The same with some of the queries."""
        query, _, _, scale, table, *_, table_scale = self.sides
        scale = None if scale is None else scale[rows]
        return self._replace(sides=Sides.of(query[rows], table, scale, table_scale))


def operands(query: Tensor, table: Tensor, row_stats: Tensor | None) -> Operands:
    """Bring queries into the table's precision, rounded as the table is.

    Of two dtypes the wider one multiplies. float32 products are made of three TF32 ones, whose
    errors are those of a float32 sum (measured in docs/gpu.md), unless torch's precision of float32
    products asks for less. Ranks are exact relative to these scores.
    """
    query, query_scale, table_scale = round_queries(query, table, row_stats)
    if table_scale is not None and table.dtype != torch.int8:  # see _from_float8
        table, table_scale = table.view(torch.uint8), 256 * table_scale
    dtype = _product_dtype(query.dtype, table.dtype)
    # Also knows what set_float32_matmul_precision was given, whose own getter may raise.
    exact = torch.backends.cuda.matmul.fp32_precision != "tf32"
    dim = query.shape[1]
    lean = dtype in (tl.float16, tl.bfloat16) and table_scale is None and is_hopper()
    block_dim = {tl.int8: 128, tl.float32: 16}.get(dtype, 64)
    # Three TF32 products would lose more than float32 sums of so few terms may.
    precision = "ieee" if dim < 32 else "tf32x3" if exact else "tf32"
    # With maxnreg two programs fit on a multiprocessor, see BLOCK.
    options = {"num_warps": 8, "num_stages": 3, "maxnreg": 128 if lean else None}
    tile = Tile(dim, BLOCK, block_dim, dtype, precision)
    return Operands(Sides.of(query, table, query_scale, table_scale), tile, options)


def _product_dtype(query: torch.dtype, table: torch.dtype) -> tl.dtype:
    if table == torch.int8:
        return tl.int8
    if query == table == torch.float16:
        return tl.float16
    # float8 is not multiplied directly: bfloat16 holds all its values, and sums are exact.
    # Triton's interpreter would multiply the bits of bfloat16; float32 holds all of its values.
    if query == torch.bfloat16 and not triton.knobs.runtime.interpret:
        return tl.bfloat16
    return tl.float32


def share_tiles(sides: Sides) -> tuple[int, int]:
    """How many programs score all items, a block of queries each, and how many tiles each scores.

    Two programs run at the same time on a multiprocessor. Of the numbers that take up to eight
    rounds of them, the one is chosen whose rounds, the last one included, take the least time.
    """
    num_blocks = triton.cdiv(sides.num_queries, BLOCK)
    num_tiles = triton.cdiv(sides.num_items, BLOCK)
    at_once = 2 * processors(sides.query.device)
    shares = []
    for rounds in range(1, 9):
        ranges = min(max(1, rounds * at_once // num_blocks), num_tiles)
        tiles = triton.cdiv(num_tiles, ranges)
        programs = num_blocks * triton.cdiv(num_tiles, tiles)
        shares.append((triton.cdiv(programs, at_once) * tiles, programs, tiles))
    _, programs, tiles = min(shares)
    return programs, tiles


@triton.jit
def is_row_of_item(items, num_items, valid):
    """Which numbers are rows of items; `valid` is a mask of the rows or None."""
    is_item = items < num_items
    if valid is not None:
        is_item = is_item & (tl.load(valid + items, mask=is_item, other=0) != 0)
    return is_item


@triton.jit
def _from_float8(bits):
    """float8_e4m3fn as float16, divided by 256: its bits are those of float16 except for the bias.

    So GPUs without the type can read it. (NaN is not kept; tables have none.)
    """
    bits = bits.to(tl.int16)
    return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def tile_scores(sides, query_rows, table_rows, tile: tl.constexpr, SETTLE: tl.constexpr = True):
    """Scores float32 [block, block] of some rows of both sides; the rows must be in range.

    Without `SETTLE`, none of them is right if one is not finite.
    """
    DIM: tl.constexpr = tile.dim
    BLOCK: tl.constexpr = tile.block
    BLOCK_DIM: tl.constexpr = tile.block_dim
    DTYPE: tl.constexpr = tile.dtype
    SUMS: tl.constexpr = tl.int32 if DTYPE == tl.int8 else tl.float32
    sums = tl.zeros((BLOCK, BLOCK), SUMS)
    columns = tl.arange(0, BLOCK_DIM)
    queries = sides.query + query_rows.to(tl.int64)[:, None] * sides.query_stride + columns[None, :]
    items = sides.table + table_rows.to(tl.int64)[None, :] * sides.table_stride + columns[:, None]
    # With a constant number of steps the loop would be unrolled, and take too many registers.
    steps = tl.cdiv(DIM, BLOCK_DIM) + 0 * tl.program_id(0)
    for step in range(0, steps):
        if DIM % BLOCK_DIM == 0:
            a = tl.load(queries)
            b = tl.load(items)
        else:
            inside = step * BLOCK_DIM + columns < DIM
            a = tl.load(queries, mask=inside[None, :], other=0)
            b = tl.load(items, mask=inside[:, None], other=0)
        if b.dtype == tl.uint8:
            b = _from_float8(b)
        if DTYPE == tl.int8:
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
        else:
            if DTYPE == tl.float32:
                a = to_float32(a)
                b = to_float32(b)
            sums = tl.dot(a.to(DTYPE), b.to(DTYPE), sums, input_precision=tile.precision)
        queries += BLOCK_DIM
        items += BLOCK_DIM
    scores = sums.to(tl.float32)
    if sides.query_scale is not None:
        # By the larger scale first, so that nothing underflows but the result.
        a = tl.load(sides.query_scale + query_rows)[:, None]
        b = tl.load(sides.table_scale + table_rows)[None, :]
        scores = scores * tl.where(a > b, a, b) * tl.where(a > b, b, a)
    elif sides.table_scale is not None:
        scores *= tl.load(sides.table_scale + table_rows)[None, :]
    if SETTLE:  # noqa: SIM102 - a constant
        if tl.max(tl.max(is_open(scores).to(tl.int32), axis=1), axis=0) > 0:
            scores = _settle(scores, sides, query_rows, table_rows, tile)
    return scores


@triton.jit
def _settle(scores, sides, query_rows, table_rows, tile: tl.constexpr):
    """Score pairs without a finite score again in float64, a query at a time: see `is_open`."""
    BLOCK: tl.constexpr = tile.block
    slots = tl.arange(0, BLOCK)
    open_rows = tl.max(is_open(scores).to(tl.int32), axis=1)
    for slot in range(0, BLOCK + 0 * tl.program_id(0)):  # not a constant: not unrolled
        if tl.sum(tl.where(slots == slot, open_rows, 0), axis=0) > 0:
            row = tl.sum(tl.where(slots == slot, query_rows, 0), axis=0)
            found = float64_scores(sides, row, table_rows, tile)[None, :]
            scores = tl.where((slots == slot)[:, None] & is_open(scores), found, scores)
    return scores


@triton.jit
def float64_scores(sides, query_rows, table_rows, tile: tl.constexpr):
    """Scores of pairs, or of one query, float32 [block]: added up in float64, in order."""
    DIM: tl.constexpr = tile.dim
    BLOCK: tl.constexpr = tile.block
    exact = tl.zeros([BLOCK], tl.float64)
    queries = sides.query + query_rows.to(tl.int64) * sides.query_stride
    items = sides.table + table_rows.to(tl.int64) * sides.table_stride
    for column in range(0, DIM + 0 * tl.program_id(0)):
        a = tl.load(queries + column)
        b = tl.load(items + column)
        if b.dtype == tl.uint8:
            b = _from_float8(b)
        exact += to_float32(a).to(tl.float64) * to_float32(b).to(tl.float64)
    if sides.query_scale is not None:
        exact *= tl.load(sides.query_scale + query_rows).to(tl.float64)
    if sides.table_scale is not None:
        exact *= tl.load(sides.table_scale + table_rows).to(tl.float64)
    return exact.to(tl.float32)
