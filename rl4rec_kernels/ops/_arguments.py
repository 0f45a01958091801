"""Checks that the operators share: shapes, dtypes and devices, never values.

Values (ids out of range) are checked by the kernels as they read them, so that a call needs no
extra pass and works inside ``torch.compile``.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels._mapped import check_mapped
from rl4rec_kernels.quantize import QuantizedTable
from rl4rec_kernels.ragged import RaggedIds

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTS = (torch.int32, torch.int64)


def widen_query(query: Any, table: Any) -> Any:
    """Give a query of half precision the dtype of a float32 table under autocast.

    Layers hand out half precision there whatever they were given. Nothing is lost, and a table is
    not copied for every call; elsewhere a query of another dtype is an error.
    """
    both = isinstance(query, Tensor) and isinstance(table, Tensor)
    differ = both and query.dtype in _FLOATS and query.dtype != table.dtype == torch.float32
    if differ and torch.is_autocast_enabled(query.device.type):
        return query.to(table.dtype)
    return query


def check_embeddings(query: Any, table: Any) -> None:
    """Check ``query [B, D]`` and ``table [N, D]``.

    Raises
    ------
    TypeError
        If one is no tensor, or their dtypes are not served.
    ValueError
        If shapes or devices do not fit.
    OSError
        If the table is mapped from a file that has become shorter.
    """
    for name, tensor in (("query", query), ("table", table)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} must be float32, float16 or bfloat16, got {tensor.dtype}; "
                            f"convert it with {name}.float()")  # fmt: skip
        if tensor.dim() != 2:
            raise ValueError(f"{name} must be a matrix of embeddings, one a row, "
                             f"got shape {tuple(tensor.shape)}")  # fmt: skip
    if query.dtype not in (table.dtype, torch.float32):
        raise TypeError(f"query is {query.dtype} but table is {table.dtype}: they must share a "
                        "dtype, or query be float32; convert with query.float()")  # fmt: skip
    if query.shape[1] != table.shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions but table has {table.shape[1]}: "
                         "both must come from the same encoder")  # fmt: skip
    if query.device != table.device:
        raise ValueError(f"query is on {query.device} but table on {table.device}; "
                         "move one of them with .to(device)")  # fmt: skip
    check_mapped(table)


def split_table(
    query: Any, table: Any, refine: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Check ``query`` and a catalog; return ``(values, row_info, source)``.

    The last two are None for a plain table; `source` is also None without `refine`.

    Raises
    ------
    TypeError, ValueError
        As `check_embeddings`, or if `refine` does not go with the table or the query.
    """
    if not isinstance(table, QuantizedTable):
        check_embeddings(query, table)
        if refine:
            raise TypeError("refine=True needs a quantized table; make one with quantize_table, or "
                            "leave refine out: a plain table is scored exactly")  # fmt: skip
        return table, None, None
    values, row_info, source = table
    dtype = query.dtype if isinstance(query, Tensor) and query.dtype in _FLOATS else torch.float32
    check_embeddings(query, values.new_empty((0, values.shape[-1]), dtype=dtype))
    fits = (
        values.dtype in (torch.int8, torch.bfloat16, torch.float8_e4m3fn)
        and (row_info.dtype, row_info.shape) == (torch.float32, (values.shape[0], 3))
        and values.device == row_info.device
    )
    if not fits:
        raise ValueError(f"table has values {values.dtype} {tuple(values.shape)} and row_info "
                         f"{row_info.dtype} {tuple(row_info.shape)}, which quantize_table does "
                         "not make")  # fmt: skip
    if not refine:
        return values, row_info, None
    if source is None:
        raise ValueError("refine=True needs the table that was quantized; make the copy with "
                         "quantize_table(..., keep_source=True)")  # fmt: skip
    if query.dtype != torch.float32:
        raise TypeError(f"query must be float32 with refine=True, got {query.dtype}; convert it "
                        "with query.float()")  # fmt: skip
    check_embeddings(query, source)
    if source.shape != values.shape:
        raise ValueError(f"table.source is {tuple(source.shape)} but table.values is "
                         f"{tuple(values.shape)}: they do not belong together")  # fmt: skip
    return values, row_info, source


class Catalog(NamedTuple):
    """What the catalog operators know of items: `split_table`'s result and the mask of rows."""

    values: Tensor
    row_info: Tensor | None
    source: Tensor | None
    valid: Tensor | None


def split_catalog(
    query: Any, table: Any, exclude: Any, valid: Any, refine: bool
) -> tuple[Catalog, Tensor | None, Tensor | None]:
    """Check what all catalog operators take; return the items, and `exclude` as by `split_ids`.

    Raises
    ------
    TypeError, ValueError
        As `split_table`, `check_valid` and `split_ids`.
    """
    values, row_info, source = split_table(query, table, refine)
    check_valid(valid, values)
    ids, offsets = (None, None) if exclude is None else split_ids("exclude", exclude, query)
    return Catalog(values, row_info, source, valid), ids, offsets


def check_column(name: str, ids: Any, query: Tensor) -> None:
    """Check a tensor of one id for each query.

    Raises
    ------
    TypeError, ValueError
        If it is no such tensor.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in _INTS:
        what = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} must be a tensor of int32 or int64 ids, one for each query, "
                        f"got {what}")  # fmt: skip
    if ids.shape != query.shape[:1]:
        raise ValueError(f"{name} must be [{query.shape[0]}], one id for each query, "
                         f"got {tuple(ids.shape)}")  # fmt: skip
    if ids.device != query.device:
        raise ValueError(f"{name} is on {ids.device} but query on {query.device}; "
                         "move one of them with .to(device)")  # fmt: skip


def check_valid(valid: Any, values: Tensor) -> None:
    """Check a mask of the table's rows.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    if valid is None:
        return
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        what = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"valid must be a bool tensor, got {what}")
    if valid.shape != values.shape[:1]:
        raise ValueError(f"valid must be [{values.shape[0]}], one for each row of the table, "
                         f"got {tuple(valid.shape)}")  # fmt: skip
    if valid.device != values.device:
        raise ValueError(f"valid is on {valid.device} but table on {values.device}; "
                         "move one of them with .to(device)")  # fmt: skip


def split_ids(name: str, ids: Any, query: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return ``(ids [B, C], None)`` for a matrix, ``(values, offsets)`` for ragged ids.

    Raises
    ------
    TypeError
        If the ids are not integers in a tensor or RaggedIds.
    ValueError
        If shapes or devices do not fit `query`.
    """
    offsets = None
    if isinstance(ids, RaggedIds):
        values, offsets = (torch.as_tensor(part, device=query.device) for part in ids)
        if offsets.dtype != torch.int64:
            raise TypeError(f"{name}.offsets must be int64, got {offsets.dtype}")
        if values.dim() != 1 or tuple(offsets.shape) != (query.shape[0] + 1,):
            raise ValueError(
                f"{name} must have values [nnz] and offsets [{query.shape[0] + 1}] (one more than "
                f"the rows of query), got {tuple(values.shape)} and {tuple(offsets.shape)}"
            )
    elif isinstance(ids, Tensor):
        values = ids
        if values.dim() != 2 or values.shape[0] != query.shape[0]:
            raise ValueError(f"{name} must be [{query.shape[0]}, C], one row for each row of "
                             f"query, got shape {tuple(values.shape)}")  # fmt: skip
    else:
        raise TypeError(f"{name} must be a tensor or RaggedIds, got {type(ids).__name__}; lists "
                        "of ids become one by RaggedIds.from_lists(...)")  # fmt: skip
    if values.dtype not in _INTS:
        raise TypeError(f"{name} must hold int32 or int64 ids, got {values.dtype}")
    if values.device != query.device:
        raise ValueError(f"{name} is on {values.device} but query on {query.device}; "
                         "move one of them with .to(device)")  # fmt: skip
    return values, offsets
