"""Scores of a tile of queries and items on the tensor cores, the heart of the catalog operators.

A score is one chain of matrix instructions over the dimensions, the same for every place in a tile:
it depends on its query and its item only. Tiles have one size whatever the batch, so that targets
and excluded items, which are scored apart, get the very scores they have in the catalog.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import is_hopper, processors, rows_of

BLOCK = 128
"""Queries and items of a tile. Two programs fit on a multiprocessor: one compares scores while the
other multiplies."""


@dataclass(frozen=True)
class Operands:
    """Queries and items as the kernels read them.

    Attributes
    ----------
    query, table : Tensor
        [B, D] and [N, D], rows of adjacent values.
    query_scale, table_scale : Tensor or None
        float32 factors of int8 and float8 embeddings, [B] and [N].
    options : dict
        The constants of `tile_scores`, and how kernels that use it are compiled.
    """

    query: Tensor
    table: Tensor
    query_scale: Tensor | None
    table_scale: Tensor | None
    options: dict

    @property
    def arguments(self) -> tuple:
        """What kernels take of it, in order: `tile_scores`'s arguments."""
        return (
            self.query, self.query.stride(0), self.query.shape[0], self.query_scale,
            self.table, self.table.stride(0), self.table.shape[0], self.table_scale,
        )  # fmt: skip

    def part(self, rows: slice) -> "Operands":
        """The same with some of the queries."""
        scale = None if self.query_scale is None else self.query_scale[rows]
        return replace(self, query=self.query[rows], query_scale=scale)


def operands(query: Tensor, table: Tensor, row_stats: Tensor | None) -> Operands:
    """Bring queries into the table's precision, rounded as the table is.

    Of two dtypes the wider one multiplies. float32 products are made of three TF32 ones, which
    keeps all but the last two bits, unless torch.set_float32_matmul_precision asks for less.
    """
    query_scale = table_scale = None
    if row_stats is not None:
        table_scale = row_stats[:, 0].contiguous()
        if table.dtype == torch.int8:
            largest = query.float().abs().amax(1) if query.shape[1] else query.new_zeros(len(query))
            query_scale = torch.where(largest == 0, 1.0, largest / 127).float()
            # int8 has no NaN; a scale of NaN makes every score one.
            query_scale = torch.where(query_scale.isfinite(), query_scale, torch.nan)
            query = (query.float() / query_scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        else:
            query = query.to(torch.bfloat16)
            if table.dtype == torch.bfloat16:
                table_scale = None  # always 1
            else:  # see _from_float8
                table, table_scale = table.view(torch.uint8), 256 * table_scale
    dtype = _product_dtype(query.dtype, table.dtype)
    exact = torch.get_float32_matmul_precision() == "highest"
    dim = query.shape[1]
    lean = dtype in (tl.float16, tl.bfloat16) and table_scale is None and is_hopper()
    options = {
        "DIM": dim,
        "BLOCK": BLOCK,
        "BLOCK_DIM": {tl.int8: 128, tl.float32: 16}.get(dtype, 64),
        "DTYPE": dtype,
        # Three TF32 products would lose more than float32 sums of so few terms may.
        "PRECISION": "ieee" if dim < 32 else "tf32x3" if exact else "tf32",
        "SCALED": table_scale is not None,
        "num_warps": 8,
        "num_stages": 3,
        "enable_fp_fusion": True,
        "maxnreg": 128 if lean else None,  # two programs on a multiprocessor, see BLOCK
    }
    return Operands(rows_of(query), rows_of(table), query_scale, table_scale, options)


def _product_dtype(query: torch.dtype, table: torch.dtype) -> tl.dtype:
    if table == torch.int8:
        return tl.int8
    if query == table == torch.float16:
        return tl.float16
    # float8 has no products of its own: bfloat16 holds all its values, and sums are kept in full.
    # Triton's interpreter would multiply the bits of bfloat16; float32 holds all of its values.
    if query == torch.bfloat16 and not triton.knobs.runtime.interpret:
        return tl.bfloat16
    return tl.float32


def share_tiles(sides: Operands) -> tuple[int, int]:
    """How many programs meet all items, a block of queries each, and how many tiles each meets.

    Several programs for each multiprocessor, so that all finish at about the same time.
    """
    num_blocks = triton.cdiv(sides.query.shape[0], BLOCK)
    num_tiles = triton.cdiv(sides.table.shape[0], BLOCK)
    ranges = triton.cdiv(4 * processors(sides.query.device), num_blocks)
    tiles_a_program = triton.cdiv(num_tiles, min(ranges, num_tiles))
    return num_blocks * triton.cdiv(num_tiles, tiles_a_program), tiles_a_program


@triton.jit
def _from_float8(bits):
    """float8_e4m3fn as float16, divided by 256: its bits are those of float16 but for the bias.

    So GPUs that do not know the type can read it. (NaN is not kept; tables have none.)
    """
    bits = bits.to(tl.int16)
    return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def tile_scores(
    query, query_stride, query_scale, table, table_stride, table_scale, query_rows, table_rows,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Scores float32 [BLOCK, BLOCK] of some rows of both sides; the rows must be in range."""
    SUMS: tl.constexpr = tl.int32 if DTYPE == tl.int8 else tl.float32
    sums = tl.zeros((BLOCK, BLOCK), SUMS)
    columns = tl.arange(0, BLOCK_DIM)
    queries = query + query_rows.to(tl.int64)[:, None] * query_stride + columns[None, :]
    items = table + table_rows.to(tl.int64)[None, :] * table_stride + columns[:, None]
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
            sums = tl.dot(a.to(DTYPE), b.to(DTYPE), sums, input_precision=PRECISION)
        queries += BLOCK_DIM
        items += BLOCK_DIM
    scores = sums.to(tl.float32)
    if SCALED:
        if DTYPE == tl.int8:
            scores *= tl.load(query_scale + query_rows)[:, None]
        scores *= tl.load(table_scale + table_rows)[None, :]
    return scores
