"""Sums of weighted rows over segments, which both gradients of the scores are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import launch, rows_of

_BLOCK_ROWS = 32


@triton.jit
def _weighted_segment_sum(
    out, weights, rows, rows_stride, num_rows, index, order, offsets, count,
    DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    inside = columns < DIM
    begin = tl.maximum(tl.load(offsets + segment), 0)
    end = tl.minimum(tl.load(offsets + segment + 1), count)
    summed = tl.zeros([BLOCK_DIM], tl.float32)
    for start in range(begin, end, BLOCK_ROWS):
        slots = start + tl.arange(0, BLOCK_ROWS)
        exists = slots < end
        if order is not None:
            slots = tl.load(order + slots, mask=exists, other=0)
        items = tl.load(index + slots, mask=exists, other=-1).to(tl.int64)
        exists = (items >= 0) & (items < num_rows)
        factors = tl.load(weights + slots, mask=exists, other=0.0)
        values = tl.load(
            rows + items[:, None] * rows_stride + columns[None, :],
            mask=exists[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        summed += tl.sum(factors[:, None] * values, axis=0)
    tl.store(out + segment * DIM + columns, summed.to(out.dtype.element_ty), mask=inside)


def weighted_segment_sum(
    weights: Tensor,
    rows: Tensor,
    index: Tensor,
    order: Tensor | None,
    offsets: Tensor,
    like: Tensor,
) -> Tensor:
    """Sum ``weights[p] * rows[index[p]]`` over p = order[offsets[s]] … for each segment s.

    Without `order`, p runs over offsets[s] … offsets[s + 1] - 1 itself. The order of additions is
    fixed, so the result is reproducible to the bit; indices out of range add nothing.

    Shapes are weights float32 [n], rows [R, D], index [n], order int64 [n], offsets int64 [S + 1];
    the sums, computed in float32, get the shape [S, D] and dtype of `like`.
    """
    rows = rows_of(rows)
    num_segments, dim = like.shape
    out = torch.empty((num_segments, dim), dtype=like.dtype, device=like.device)
    if out.numel():
        block_dim = min(256, max(16, triton.next_power_of_2(dim)))
        grid = num_segments, triton.cdiv(dim, block_dim)
        sums = (weights.contiguous(), rows, rows.stride(0), rows.shape[0], index.contiguous())
        segments = (order, offsets.contiguous(), weights.numel())
        blocks = (dim, _BLOCK_ROWS, block_dim)
        launch(_weighted_segment_sum, grid, out, *sums, *segments, *blocks)
    return out
