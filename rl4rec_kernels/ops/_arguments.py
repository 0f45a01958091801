"""Checks that the operators share: shapes, dtypes and devices, never values.

The kernels check values (ids out of range) as they read them. So a call needs no extra pass over
its ids, and works inside ``torch.compile``.
"""

from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array, as_array, as_tensor
from rl4rec_kernels._utils.checks import flag, number, shown, whole_number
from rl4rec_kernels._utils.mapped import check_mapped
from rl4rec_kernels.ids import RaggedIds, as_int64, check_layout, pack_ids
from rl4rec_kernels.ops.quantize import QuantizedTable

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTS = (torch.int32, torch.int64)
_DENSE = torch.strided


class Ids(NamedTuple):
    """Excluded ids as operators take them: the result of `split_ids`, or `NO_IDS`."""

    values: Tensor | None
    offsets: Tensor | None


NO_IDS = Ids(None, None)


class Targets(NamedTuple):
    """Several targets per query as operators take them: those of query i are between offsets."""

    values: Tensor
    offsets: Tensor


class Catalog(NamedTuple):
    """Items as the catalog operators take them, in the order of their arguments.

    `row_stats` is None for a plain table, `source` unless results are refined, and `valid` where
    all rows are items.
    """

    values: Tensor
    valid: Tensor | None
    row_stats: Tensor | None
    source: Tensor | None


def _found(value: Any) -> Any:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def _share_device(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are on one device. Asking for the CPU first is faster."""
    return (tensor.is_cpu and other.is_cpu) or tensor.device == other.device


def _on_two_devices(name: str, tensor: Tensor, other_name: str, other: Tensor) -> ValueError:
    return ValueError(
        f"{name} is on {tensor.device} but {other_name} on {other.device}; "
        "move one of them with .to(device)"
    )


@overload
def as_embeddings(query: Any, table: QuantizedTable) -> tuple[Tensor, QuantizedTable]: ...
@overload
def as_embeddings(query: Any, table: Array) -> tuple[Tensor, Tensor]: ...
def as_embeddings(query: Any, table: Any) -> Any:
    """Return embeddings as tensors that the checks below expect.

    NumPy arrays become tensors that share their memory. Under autocast a half-precision query gets
    the dtype of a float32 or quantized table: autocast makes layers return half precision whatever
    they were given, and widening the query loses nothing and copies no table. Without autocast a
    query of another dtype is an error.
    """
    if isinstance(query, Tensor) and isinstance(table, Tensor) and query.dtype is table.dtype:
        return query, table
    query, table = as_tensor("query", query), as_tensor("table", table)
    stats = table.row_stats if isinstance(table, QuantizedTable) else table
    both = isinstance(query, Tensor) and isinstance(stats, Tensor)
    differ = both and query.dtype != stats.dtype == torch.float32 and query.dtype in _FLOATS
    if differ and torch.is_autocast_enabled(query.device.type):
        return query.to(stats.dtype), table
    return query, table


def check_temperature(temperature: Any) -> float:
    """Return a temperature at which differences of float32 scores are finite, or raise an error."""
    return number("temperature", temperature, 1e-30, 1e30, strict=True)


def check_embeddings(query: Any, table: Any) -> None:
    """Check ``query [B, D]`` and ``table [N, D]``.

    Raises
    ------
    TypeError
        If one is not a tensor, or their dtypes are not supported.
    ValueError
        If shapes or devices do not match.
    OSError
        If the table is mapped from a file that has become shorter.
    """
    for name, tensor in (("query", query), ("table", table)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor or array, got {type(tensor).__name__}")
        if tensor.layout is not _DENSE:
            raise TypeError(f"{name} must be dense, got {tensor.layout}; use .to_dense()")
        if tensor.dtype not in _FLOATS:
            raise TypeError(
                f"{name} must be float32, float16 or bfloat16, got {tensor.dtype}; "
                f"convert it with {name}.float(), or {name}.astype(np.float32) if it is an array"
            )
        if tensor.dim() != 2:
            raise ValueError(
                f"{name} must be a matrix, one embedding per row, got shape {tuple(tensor.shape)}"
            )
    if query.dtype is not table.dtype and query.dtype is not torch.float32:
        raise TypeError(
            f"query is {query.dtype} but table is {table.dtype}: they must share a "
            "dtype, or query be float32; convert with query.float()"
        )
    if query.shape[1] != table.shape[1]:
        raise ValueError(
            f"query has {query.shape[1]} dimensions but table has {table.shape[1]}: "
            "both must come from the same encoder"
        )
    if not _share_device(query, table):
        raise _on_two_devices("query", query, "table", table)
    check_mapped(table)


def check_catalog(query: Any, table: Any, valid: Any = None, refine: bool = False) -> Catalog:
    """Check ``query`` and the items of a catalog operator; return the items.

    Raises
    ------
    TypeError, ValueError
        As `check_embeddings`; if `valid` is not a mask of the rows, or `refine` does not go with
        the table or the query.
    """
    refine = flag("refine", refine)
    if isinstance(table, QuantizedTable):
        values, row_stats, source = _check_quantized(query, table, refine)
    else:
        values, row_stats, source = table, None, None
        check_embeddings(query, table)
        if refine:
            raise TypeError(
                "refine=True needs a quantized table, which quantize_table makes; "
                "leave refine out: a plain table is scored exactly"
            )
    if valid is not None:
        valid = as_tensor("valid", valid)
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
            raise TypeError(f"valid must be a bool tensor, got {_found(valid)}")
        if valid.shape != values.shape[:1]:
            raise ValueError(
                f"valid must be [{values.shape[0]}], one per row of the table, "
                f"got {tuple(valid.shape)}"
            )
        if not _share_device(valid, values):
            raise _on_two_devices("valid", valid, "table", values)
    return Catalog(values, valid, row_stats, source)


def _check_quantized(
    query: Any, table: QuantizedTable, refine: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    values, row_stats, source = table
    for name, part in zip(table._fields, table, strict=True):
        if not isinstance(part, Tensor) and (part is not None or name != "source"):
            raise TypeError(
                f"table.{name} must be a tensor, got {shown(part)}; make it with quantize_table"
            )
    if (
        values.dim() != 2
        or values.dtype not in (torch.int8, torch.bfloat16, torch.float8_e4m3fn)
        or (row_stats.dtype, row_stats.shape) != (torch.float32, (values.shape[0], 3))
        or values.device != row_stats.device
    ):
        raise ValueError(
            f"table has values {values.dtype} {tuple(values.shape)} and row_stats "
            f"{row_stats.dtype} {tuple(row_stats.shape)}; make it with quantize_table"
        )
    if not refine:
        is_float = isinstance(query, Tensor) and query.dtype in _FLOATS
        dtype = query.dtype if is_float else torch.float32
        check_embeddings(query, values.new_empty((0, values.shape[1]), dtype=dtype))
        return values, row_stats, None
    if source is None:
        raise ValueError(
            "refine=True needs the table that was quantized; make the copy with "
            "quantize_table(..., keep_source=True)"
        )
    if isinstance(query, Tensor) and query.dtype != torch.float32:
        raise TypeError(
            f"query must be float32 with refine=True, got {query.dtype}; convert it "
            "with query.float()"
        )
    check_embeddings(query, source)
    if source.shape != values.shape:
        raise ValueError(
            f"table.source is {tuple(source.shape)} but table.values is {tuple(values.shape)}"
        )
    if not _share_device(values, source):
        raise _on_two_devices("table.values", values, "table.source", source)
    return values, row_stats, source


def as_targets(targets: Any, query: Tensor) -> Tensor:
    """Return one target per query as a tensor; NumPy arrays and lists become int64.

    Raises
    ------
    TypeError, ValueError, IndexError
        If they are not one id per query.
    """
    if not isinstance(targets, Tensor) and isinstance(targets, list | tuple | np.ndarray):
        ids = as_int64("targets", targets, IndexError)
        targets = torch.as_tensor(ids, device=query.device)
    if not isinstance(targets, Tensor) or targets.dtype not in _INTS:
        raise TypeError(f"targets must be int32 or int64 ids, one per query, got {_found(targets)}")
    if targets.dim() != 1 or targets.shape[0] != query.shape[0]:
        raise ValueError(
            f"targets must be [{query.shape[0]}], one id per query, got {tuple(targets.shape)}"
        )
    if not _share_device(targets, query):
        raise _on_two_devices("targets", targets, "query", query)
    return targets


def split_targets(targets: Any, query: Tensor) -> Tensor | Targets:
    """Return a tensor of one target per query, or several targets per query.

    Raises
    ------
    TypeError, ValueError, IndexError
        If they are neither.
    """
    if isinstance(targets, Tensor):
        return as_targets(targets, query)
    is_list = isinstance(targets, list | tuple) and not isinstance(targets, RaggedIds)
    is_several = is_list and any(isinstance(row, list | tuple | np.ndarray) for row in targets)
    if not isinstance(targets, RaggedIds) and not is_several:
        return as_targets(targets, query)
    values, offsets = split_ids("targets", targets, query)
    assert offsets is not None
    return Targets(values, offsets)


def check_log_q(log_q: Any, table: Tensor) -> Tensor | None:
    """Check and return the logs of sampling probabilities, one per row of the table, or None.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if log_q is None:
        return None
    log_q = as_tensor("log_q", log_q)
    if not isinstance(log_q, Tensor) or log_q.dtype != torch.float32:
        raise TypeError(f"log_q must be a float32 tensor, got {_found(log_q)}")
    if log_q.shape != table.shape[:1]:
        raise ValueError(
            f"log_q must be [{table.shape[0]}], one per row of the table, got {tuple(log_q.shape)}"
        )
    if log_q.device != table.device:
        raise _on_two_devices("log_q", log_q, "table", table)
    return log_q


def _as_ids(name: str, ids: Any, query: Tensor) -> Tensor:
    """Return a part of RaggedIds as a tensor on the query's device."""
    if isinstance(ids, Tensor):
        if ids.is_meta and not query.is_meta:
            raise TypeError(f"{name} has no values, only a shape (device meta)")
        return ids.to(query.device)
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iufcb":
        ids = as_tensor(name, as_array(name, ids))
    return torch.as_tensor(ids, device=query.device)


def check_k(k: int, num_rows: int) -> int:
    """Check the number of items that `topk_catalog` is asked for; return it as an int."""
    k = whole_number("k", k, 1)
    if k > num_rows:
        raise ValueError(f"k must be at most {num_rows} (the rows of the table), got {k}")
    return k


def split_excluded(exclude: Any, query: Tensor) -> Ids:
    """Check ``exclude``, which may be None, as `split_ids`."""
    return NO_IDS if exclude is None else Ids(*split_ids("exclude", exclude, query))


def split_ids(name: str, ids: Any, query: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return ``(ids [B, C], None)`` for a matrix, ``(values, offsets)`` for ragged ids or lists.

    Raises
    ------
    TypeError
        If the ids are not integers in a tensor, an array, lists or RaggedIds.
    ValueError
        If shapes or devices do not match `query`.
    """
    offsets, rows = None, query.shape[0]
    if isinstance(ids, Tensor):
        pass  # the usual case; asking for it first is faster
    elif isinstance(ids, list | tuple) and not isinstance(ids, RaggedIds):
        ids = pack_ids(name, ids, rows)
    elif isinstance(ids, np.ndarray):
        ids = as_tensor(name, ids).to(query.device)
    if isinstance(ids, RaggedIds):
        values = _as_ids(f"{name}.values", ids.values, query)
        offsets = _as_ids(f"{name}.offsets", ids.offsets, query)
        check_layout(name, RaggedIds(values, offsets), rows)
        if offsets.dtype != torch.int64:
            raise TypeError(f"{name}.offsets must be int64, got {offsets.dtype}")
    elif isinstance(ids, Tensor):
        values = ids
        if values.dim() != 2 or values.shape[0] != rows:
            raise ValueError(
                f"{name} must be [{rows}, C], one row per row of query, "
                f"got shape {tuple(values.shape)}"
            )
    else:
        raise TypeError(
            f"{name} must be a tensor, an array, lists of ids or RaggedIds, "
            f"got {type(ids).__name__}"
        )
    if values.dtype not in _INTS:
        raise TypeError(f"{name} must hold int32 or int64 ids, got {values.dtype}")
    if not _share_device(values, query):
        raise _on_two_devices(name, values, "query", query)
    return values, offsets
