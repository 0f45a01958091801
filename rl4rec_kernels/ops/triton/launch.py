"""What all launches share: how embeddings are passed, and devices."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def is_open(scores):
    """Which float32 scores are not finite: their pairs must be scored again in float64.

    See `ops.reference`: a score is NaN or infinite only if the dot product is, or exceeds float32.
    """
    return (tl.abs(scores) <= _MAX) == 0


@triton.jit
def to_float32(values):
    """Values as float32; bfloat16 by its bits: Triton's interpreter mistakes subnormal numbers."""
    if values.dtype == tl.bfloat16:
        bits = values.to(tl.int16, bitcast=True).to(tl.int32) << 16
        return bits.to(tl.float32, bitcast=True)
    else:
        return values.to(tl.float32)


class Sides(NamedTuple):
    """Queries [B, D] and items [N, D] as kernels read them: value j of row i is at i * stride + j.

    Scales are the float32 factors of int8 and float8 embeddings, [B] and [N].
    """

    query: Tensor
    query_stride: int
    num_queries: int
    query_scale: Tensor | None
    table: Tensor
    table_stride: int
    num_items: int
    table_scale: Tensor | None

    @classmethod
    def of(
        cls,
        query: Tensor,
        table: Tensor,
        query_scale: Tensor | None = None,
        table_scale: Tensor | None = None,
    ) -> "Sides":
        """Pack matrices; a matrix is copied only if the values of its rows are not adjacent."""
        query, table = rows_of(query), rows_of(table)
        return cls(
            *(query, query.stride(0), len(query), query_scale),
            *(table, table.stride(0), len(table), table_scale),
        )


def rows_of(matrix: Tensor) -> Tensor:
    """The matrix with the values of each row adjacent; a copy only if they are not."""
    return matrix if matrix.stride(-1) == 1 or matrix.shape[-1] <= 1 else matrix.contiguous()


def launch(kernel: Any, grid: Any, first: Tensor, *args: Any, **options: Any) -> None:
    """Start a kernel on the device of its first argument."""
    options = {"num_warps": 4, "enable_fp_fusion": True, **options}
    with torch.cuda.device_of(first):
        kernel[grid if isinstance(grid, tuple) else (grid,)](first, *args, **options)


def processors(device: torch.device) -> int:
    """How many multiprocessors share the work; a few if the kernels are interpreted."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def is_hopper() -> bool:
    """Whether kernels run on compute capability 9.0, whose tensor cores read shared memory."""
    if triton.knobs.runtime.interpret:
        return False
    return triton.runtime.driver.active.get_current_target().arch == 90
