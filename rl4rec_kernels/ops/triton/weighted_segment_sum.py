"""Sums of weighted rows over segments: what both gradients of the scores are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import on_device, rows_of

_BLOCK_ROWS = 32


@triton.jit
def _weighted_segment_sum(
    out, weights, rows, rows_stride, num_rows, index, order, offsets, count,
    ORDERED: tl.constexpr, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    inside = columns < DIM
    begin = tl.maximum(tl.load(offsets + segment), 0)
    end = tl.minimum(tl.load(offsets + segment + 1), count)
    summed = tl.zeros([BLOCK_DIM], tl.float32)
    for start in range(begin, end, BLOCK_ROWS):
        places = start + tl.arange(0, BLOCK_ROWS)
        there = places < end
        if ORDERED:
            places = tl.load(order + places, mask=there, other=0)
        items = tl.load(index + places, mask=there, other=-1).to(tl.int64)
        there = (items >= 0) & (items < num_rows)
        factors = tl.load(weights + places, mask=there, other=0.0)
        values = tl.load(
            rows + items[:, None] * rows_stride + columns[None, :],
            mask=there[:, None] & inside[None, :],
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
    """Sum ``weights[p] * rows[index[p]]`` over p = order[offsets[s]] … for every segment s.

    Without `order`, p runs over offsets[s] … offsets[s + 1] - 1 itself. The order of additions is
    fixed, so the result is reproducible to the bit; indices out of range add nothing.

    Shapes are weights float32 [n], rows [R, D], index [n], order int64 [n], offsets int64 [S + 1];
    the sums, made in float32, get shape [S, D] and dtype of `like`.
    """
    rows = rows_of(rows)
    num_segments, dim = like.shape
    out = torch.empty((num_segments, dim), dtype=like.dtype, device=like.device)
    if out.numel() == 0:
        return out
    block_dim = min(256, max(16, triton.next_power_of_2(dim)))
    with on_device(like):
        _weighted_segment_sum[(num_segments, triton.cdiv(dim, block_dim))](
            out, weights.contiguous(), rows, rows.stride(0), rows.shape[0], index.contiguous(),
            order, offsets.contiguous(), weights.numel(), ORDERED=order is not None, DIM=dim,
            BLOCK_ROWS=_BLOCK_ROWS, BLOCK_DIM=block_dim, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out
