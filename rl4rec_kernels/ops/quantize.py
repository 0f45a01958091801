"""Low-precision copies of a table of items, with bounds on their error."""

from typing import NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array, as_tensor
from rl4rec_kernels._utils.checks import flag, shown
from rl4rec_kernels._utils.mapped import check_mapped

_BLOCK = 4_096  # rows at a time, to take little memory besides the result
_LONGEST = 1e18  # the square of a length must stay finite in float32
_LARGEST = {torch.bfloat16: None, torch.int8: 127, torch.float8_e4m3fn: 448}  # scaled to


class QuantizedTable(NamedTuple):
    """A low-precision copy of a table, made by `quantize_table`.

    Attributes
    ----------
    values : Tensor, bfloat16, int8 or float8_e4m3fn, shape [N, D]
        The copy; an item is ``scale * values``.
    row_stats : Tensor, float32, shape [N, 3]
        For each row its scale, the length of the copied item, and the length of the difference
        between item and copy; lengths are rounded up.
    source : Tensor or None
        The table that was copied, whose results ``refine=True`` gives.
    """

    values: Tensor
    row_stats: Tensor
    source: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """Shape [N, D]."""
        return self.values.shape

    @property
    def device(self) -> torch.device:
        """The device of the copy."""
        return self.values.device


def quantize_table(
    table: Array, dtype: torch.dtype = torch.int8, *, keep_source: bool = True
) -> QuantizedTable:
    """Copy a table in bfloat16, or in int8 or float8 with a scale per row.

    The catalog operators score the copy two times (bfloat16) or four times (int8) as fast as
    float32 on AMD CPUs with AVX-512's dot products; on Intel's without AMX, bfloat16 takes as long
    as float32. Queries are then rounded in the same way. With AMX they score the copy faster still,
    but find the exact results of float32 nearly as fast without one. With ``refine=True`` the
    results are exactly those of the table itself. On a GPU, ``refine=True`` scores the table
    itself; without it, copies save memory and time.

    Parameters
    ----------
    table : Tensor or array, shape [N, D]
        float32, float16 or bfloat16; finite. May be memory-mapped: it is read by blocks.
    dtype : torch.dtype
        ``torch.int8``: the largest magnitude of a row becomes 127. ``torch.bfloat16``: nearest
        values. ``torch.float8_e4m3fn``: the largest magnitude of a row becomes 448; for GPUs only,
        where queries are then rounded to bfloat16.
    keep_source : bool
        Whether to keep a reference to `table`, which ``refine=True`` needs.

    Returns
    -------
    QuantizedTable
        The copy takes a quarter (int8) or half of the memory of float32.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or a row is not finite; the message names the row.
    """
    keep_source = flag("keep_source", keep_source)
    table = as_tensor("table", table)
    floats = (torch.float32, torch.float16, torch.bfloat16)
    if not isinstance(table, Tensor) or table.dtype not in floats:
        what = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise TypeError(f"table must be a float32, float16 or bfloat16 tensor, got {what}")
    if table.dim() != 2:
        raise ValueError(f"table must be [N, D], got {tuple(table.shape)}")
    if table.is_meta or table.layout != torch.strided:
        raise TypeError(f"table must be dense and have values, got {shown(table)}")
    if not isinstance(dtype, torch.dtype) or dtype not in _LARGEST:
        raise ValueError(
            f"dtype must be torch.int8, torch.bfloat16 or torch.float8_e4m3fn, got {shown(dtype)}"
        )
    table = table.detach()
    values = table.new_empty(table.shape, dtype=dtype)
    row_stats = table.new_empty((table.shape[0], 3), dtype=torch.float32)
    for start in range(0, table.shape[0], _BLOCK):
        check_mapped(table)
        rows = slice(start, start + _BLOCK)
        block = table[rows].float()
        scale = torch.ones_like(block[:, 0]) if block.shape[1] else block.new_ones(block.shape[0])
        limit = _LARGEST[dtype]
        if limit is not None and block.shape[1]:
            largest = block.abs().amax(1)
            scale = torch.where(largest > 0, (largest / limit).clamp(min=2.0**-149), 1.0)
        copy = block if limit is None else (block / scale[:, None]).clamp(-limit, limit)
        values[rows] = (copy.round() if dtype is torch.int8 else copy).to(dtype)
        exact, copied = block.double(), values[rows].double() * scale[:, None].double()
        length = exact.norm(dim=1)
        bad = (~(length < _LONGEST)).nonzero()
        if bad.numel():
            raise ValueError(
                f"table: row {start + int(bad[0])} holds NaN, infinity or huge values "
                f"(its length is {length[bad[0]].item()}); fix it first"
            )
        row_stats[rows, 0] = scale
        row_stats[rows, 1] = _rounded_up(copied.norm(dim=1))
        row_stats[rows, 2] = _rounded_up((exact - copied).norm(dim=1))
    return QuantizedTable(values, row_stats, table if keep_source else None)


def _rounded_up(length: Tensor) -> Tensor:
    narrow = length.float()
    return torch.nextafter(narrow, torch.full_like(narrow, torch.inf))
