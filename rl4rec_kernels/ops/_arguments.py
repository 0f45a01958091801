"""Checks that the operators share: shapes, dtypes and devices, never values.

Values (ids out of range) are checked by the kernels as they read them, so that a call needs no
extra pass and works inside ``torch.compile``.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels._utils.mapped import check_mapped
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.ops.quantize import QuantizedTable

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
            raise TypeError(
                f"{name} must be float32, float16 or bfloat16, got {tensor.dtype}; "
                f"convert it with {name}.float()"
            )
        if tensor.dim() != 2:
            raise ValueError(
                f"{name} must be a matrix of embeddings, one a row, got shape {tuple(tensor.shape)}"
            )
    if query.dtype not in (table.dtype, torch.float32):
        raise TypeError(
            f"query is {query.dtype} but table is {table.dtype}: they must share a "
            "dtype, or query be float32; convert with query.float()"
        )
    if query.shape[1] != table.shape[1]:
        raise ValueError(
            f"query has {query.shape[1]} dimensions but table has {table.shape[1]}: "
            "both must come from the same encoder"
        )
    if query.device != table.device:
        raise ValueError(
            f"query is on {query.device} but table on {table.device}; "
            "move one of them with .to(device)"
        )
    check_mapped(table)


def split_table(
    query: Any, table: Any, refine: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Check ``query`` and a catalog; return ``(values, row_stats, source)``.

    The last two are None for a plain table; `source` is also None without `refine`.

    Raises
    ------
    TypeError, ValueError
        As `check_embeddings`, or if `refine` does not go with the table or the query.
    """
    if not isinstance(table, QuantizedTable):
        check_embeddings(query, table)
        if refine:
            raise TypeError(
                "refine=True needs a quantized table; make one with quantize_table, or "
                "leave refine out: a plain table is scored exactly"
            )
        return table, None, None
    values, row_stats, source = table
    dtype = query.dtype if isinstance(query, Tensor) and query.dtype in _FLOATS else torch.float32
    check_embeddings(query, values.new_empty((0, values.shape[-1]), dtype=dtype))
    fits = (
        values.dtype in (torch.int8, torch.bfloat16, torch.float8_e4m3fn)
        and (row_stats.dtype, row_stats.shape) == (torch.float32, (values.shape[0], 3))
        and values.device == row_stats.device
    )
    if not fits:
        raise ValueError(
            f"table has values {values.dtype} {tuple(values.shape)} and row_stats "
            f"{row_stats.dtype} {tuple(row_stats.shape)}, which quantize_table does "
            "not make"
        )
    if not refine:
        return values, row_stats, None
    if source is None:
        raise ValueError(
            "refine=True needs the table that was quantized; make the copy with "
            "quantize_table(..., keep_source=True)"
        )
    if query.dtype != torch.float32:
        raise TypeError(
            f"query must be float32 with refine=True, got {query.dtype}; convert it "
            "with query.float()"
        )
    check_embeddings(query, source)
    if source.shape != values.shape:
        raise ValueError(
            f"table.source is {tuple(source.shape)} but table.values is "
            f"{tuple(values.shape)}: they do not belong together"
        )
    return values, row_stats, source


class Catalog(NamedTuple):
    """What the catalog operators know of items: `split_table`'s result and the mask of rows."""

    values: Tensor
    row_stats: Tensor | None
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
    values, row_stats, source = split_table(query, table, refine)
    check_valid(valid, values)
    ids, offsets = (None, None) if exclude is None else split_ids("exclude", exclude, query)
    return Catalog(values, row_stats, source, valid), ids, offsets


def check_column(name: str, ids: Any, query: Tensor) -> None:
    """Check a tensor of one id for each query.

    Raises
    ------
    TypeError, ValueError
        If it is no such tensor.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in _INTS:
        what = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(
            f"{name} must be a tensor of int32 or int64 ids, one for each query, got {what}"
        )
    if ids.shape != query.shape[:1]:
        raise ValueError(
            f"{name} must be [{query.shape[0]}], one id for each query, got {tuple(ids.shape)}"
        )
    if ids.device != query.device:
        raise ValueError(
            f"{name} is on {ids.device} but query on {query.device}; "
            "move one of them with .to(device)"
        )


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
        raise ValueError(
            f"valid must be [{values.shape[0]}], one for each row of the table, "
            f"got {tuple(valid.shape)}"
        )
    if valid.device != values.device:
        raise ValueError(
            f"valid is on {valid.device} but table on {values.device}; "
            "move one of them with .to(device)"
        )


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
            raise ValueError(
                f"{name} must be [{query.shape[0]}, C], one row for each row of "
                f"query, got shape {tuple(values.shape)}"
            )
    else:
        raise TypeError(
            f"{name} must be a tensor or RaggedIds, got {type(ids).__name__}; lists "
            "of ids become one by RaggedIds.from_lists(...)"
        )
    if values.dtype not in _INTS:
        raise TypeError(f"{name} must hold int32 or int64 ids, got {values.dtype}")
    if values.device != query.device:
        raise ValueError(
            f"{name} is on {values.device} but query on {query.device}; "
            "move one of them with .to(device)"
        )
    return values, offsets
