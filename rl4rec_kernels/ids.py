"""Item ids: ragged lists of them, conversions from what callers pass, and their checks."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels import _ids
from rl4rec_kernels._utils.arrays import Array, Numbers, SupportsArray, as_array, as_tensor
from rl4rec_kernels._utils.checks import shown


class RaggedIds(NamedTuple):
    """Rows of ids in compressed sparse row (CSR) form.

    Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``. Both fields may be torch tensors or NumPy
    arrays. As a named tuple, it passes through ``torch.compile`` and pytrees unchanged.

    Attributes
    ----------
    values : int32 or int64, shape [nnz]
        The ids of all rows, row after row.
    offsets : int64, shape [rows + 1]
        Where each row starts; the first is 0 and the last is ``nnz``.
    """

    values: Any
    offsets: Any

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> "RaggedIds":
        """Pack lists of ids into int64 NumPy arrays.

        Raises
        ------
        TypeError
            If a row is not a flat list of whole numbers.
        ValueError
            If a number is 2^63 or more.
        """
        return pack_ids("rows", rows)

    def to_lists(self) -> list[list[int]]:
        """Unpack into lists of int."""
        values, offsets = np.asarray(self.values), np.asarray(self.offsets)
        return [values[start:end].tolist() for start, end in pairwise(offsets)]


IdList = Array | SupportsArray | Sequence[int]
IdLists = Array | Sequence[IdList] | RaggedIds  # rows of ids; in an array -1 is padding
TargetIds = IdList | Sequence[int | IdList] | RaggedIds  # one id for each row, or several


# Conversions. Below, RaggedIds hold int64 NumPy arrays.


def as_ragged(name: str, rows: object, num_rows: int) -> RaggedIds:
    """Turn lists of ids, an array padded with -1, or RaggedIds into RaggedIds without padding.

    Raises TypeError, ValueError or IndexError unless there are `num_rows` rows of whole numbers
    from -1.
    """
    packed = _ids.pack(rows, True) if type(rows) is list and len(rows) == num_rows else None
    if packed is not None and packed[2] >= -1:
        return RaggedIds(*packed[:2])
    ids = pack_ids(name, rows, num_rows)
    if ids.values.size and ids.values.min() < -1:
        place = int(ids.values.argmin())
        raise IndexError(
            f"{name}: {ids.values[place]}{_in_row(place, ids.offsets)} is not an item id (-1 is "
            "padding)"
        )
    kept = ids.values != -1
    return ids if kept.all() else select(ids, kept)


def pack_ids(name: str, rows: object, num_rows: int | None = None) -> RaggedIds:
    """Turn lists of ids, an array or RaggedIds into checked RaggedIds; -1 stays."""
    if not isinstance(rows, RaggedIds):
        is_text = isinstance(rows, str | bytes)
        if is_text or not isinstance(rows, Iterable) or getattr(rows, "ndim", 1) == 0:
            raise TypeError(f"{name} must be a list of lists of item ids, got {shown(rows)}")
        ids = _pack(name, list(rows))
        check_layout(name, ids, num_rows)
        return ids
    ids = RaggedIds(*map(as_array, (f"{name}.values", f"{name}.offsets"), rows))
    check_layout(name, ids, num_rows)
    values, offsets = as_int64(f"{name}.values", ids[0]), as_int64(f"{name}.offsets", ids[1])
    lengths = offsets[1:] - offsets[:-1]
    if not offsets.size or offsets[0] != 0 or offsets[-1] != values.size or (lengths < 0).any():
        raise ValueError(
            f"{name}.offsets must rise from 0 to {values.size}, the number of values, got {offsets}"
        )
    return RaggedIds(values, offsets)


def as_int64(name: str, values: object, too_large: type[Exception] = ValueError) -> np.ndarray:
    """Turn whole numbers into an int64 array, or raise TypeError; from 2^63, raise `too_large`."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be an array, got lists of different lengths") from None
    except (RuntimeError, TypeError):  # a tensor on meta, with a gradient or a sparse one
        array = as_array(name, values)
    if array.size and not _holds_integers(array):
        raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise too_large(f"{name}: {array.max()} is too large, ids must be below 2^63")
    return np.asarray(array, dtype=np.int64, order="C")


def as_column(
    name: str, ids: object, num_rows: int, too_large: type[Exception] = ValueError
) -> np.ndarray:
    """Turn one id per row into int64 [num_rows], or raise TypeError or ValueError."""
    packed = _ids.pack([ids], False)
    array = as_int64(name, ids, too_large) if packed is None else packed[0]
    if array.shape != (num_rows,):
        raise ValueError(
            f"{name} must have one id for each of the {num_rows} rows, got shape {array.shape}"
        )
    return array


def _pack(name: str, rows: list[Any]) -> RaggedIds:
    packed = _ids.pack(rows, False)
    if packed is not None:
        return RaggedIds(*packed[:2])
    arrays = [as_int64(f"{name}[{i}]", row) for i, row in enumerate(rows)]
    for i, array in enumerate(arrays):
        if array.size and array.ndim != 1:
            raise TypeError(f"{name}[{i}] must be a flat list of ids, got shape {array.shape}")
    values = np.concatenate([np.empty(0, np.int64), *map(np.ravel, arrays)])
    return RaggedIds(values, to_offsets([array.size for array in arrays]))


# Rows of ragged ids


def to_offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Offsets of rows of these lengths, int64 [rows + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=offsets[1:])
    return offsets


def rows_of(ids: RaggedIds) -> np.ndarray:
    """The row of each value, int64 [nnz]."""
    lengths = np.diff(ids.offsets)
    return np.repeat(np.arange(lengths.size, dtype=np.int64), lengths)


def pairs_of(ids: RaggedIds, num_items: int) -> np.ndarray:
    """The row and the id (below `num_items`) of each value as one number, int64 [nnz]."""
    return rows_of(ids) * num_items + ids.values


def select(ids: RaggedIds, keep: np.ndarray) -> RaggedIds:
    """Keep the values where the mask `keep` [nnz] is set, and all rows, even if empty."""
    return RaggedIds(ids.values[keep], to_offsets(keep)[ids.offsets])


def without(ids: RaggedIds, others: RaggedIds) -> RaggedIds:
    """Leave out what is also in the same row of `others`."""
    if not ids.values.size or not others.values.size:
        return ids
    num_items = 1 + int(max(ids.values.max(), others.values.max()))
    keep = ~np.isin(pairs_of(ids, num_items), pairs_of(others, num_items))
    return ids if keep.all() else select(ids, keep)


def join(left: RaggedIds, right: RaggedIds) -> RaggedIds:
    """Each row of `left` with that of `right` behind it."""
    order = np.concatenate([rows_of(left), rows_of(right)]).argsort(kind="stable")
    values = np.concatenate([left.values, right.values])[order]
    return RaggedIds(values, left.offsets + right.offsets)


def take_rows(ids: RaggedIds, rows: np.ndarray) -> RaggedIds:
    """The rows with these numbers, which may repeat."""
    lengths = np.diff(ids.offsets)[rows]
    offsets = to_offsets(lengths)
    shifts = np.repeat(ids.offsets[rows] - offsets[:-1], lengths)
    return RaggedIds(ids.values[np.arange(offsets[-1]) + shifts], offsets)


def slice_rows(ids: RaggedIds, start: int, end: int) -> RaggedIds:
    """The rows from `start` to `end`, exclusive."""
    offsets = ids.offsets[start : end + 1]
    return RaggedIds(ids.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def prepend(columns: np.ndarray, ids: RaggedIds) -> RaggedIds:
    """Put the ids `columns` [rows, n] before those of each row."""
    return RaggedIds(*_ids.prepend(columns, *ids))


def merge(parts: Sequence[RaggedIds | None]) -> RaggedIds:
    """All rows of several RaggedIds, in order."""
    given = [part for part in parts if part is not None]
    if len(given) == 1:
        return given[0]
    starts = accumulate((len(part.values) for part in given), initial=0)
    offsets = [np.zeros(1, np.int64)]
    offsets += [part.offsets[1:] + start for part, start in zip(given, starts, strict=False)]
    return RaggedIds(np.concatenate([part.values for part in given]), np.concatenate(offsets))


# Checks


def check_layout(name: str, ids: RaggedIds, num_rows: int | None = None) -> None:
    """Raise TypeError or ValueError unless both parts are flat, whole numbers, for `num_rows` rows.

    Reads dtypes and shapes only, so it also serves tensors on a GPU and inside ``torch.compile``.
    """
    for part, array in (("values", ids.values), ("offsets", ids.offsets)):
        if not _holds_integers(array) and (isinstance(array, Tensor) or array.size):
            raise TypeError(f"{name}.{part} must be whole numbers, got {array.dtype}")
        if array.ndim != 1:
            raise ValueError(f"{name}.{part} must be flat, got shape {tuple(array.shape)}")
    if num_rows is not None and ids.offsets.shape[0] != num_rows + 1:
        given = ids.offsets.shape[0] - 1
        raise ValueError(f"{name} must have one list for each of the {num_rows} rows, got {given}")


def _holds_integers(array: Any) -> bool:
    if isinstance(array, Tensor):
        return array.dtype in (torch.int32, torch.int64)
    return array.dtype.kind in "iu"


def check_targets(targets: object, num_rows: int) -> np.ndarray:
    """Turn targets into int64 [num_rows], or raise TypeError, ValueError or IndexError."""
    if targets is None:
        raise ValueError("targets is None: pass one item id per row")
    return as_column("targets", targets, num_rows, IndexError)


def check_some_targets(targets: object, num_rows: int) -> np.ndarray | RaggedIds:
    """Turn one target per row into int64 [num_rows], and lists of them into RaggedIds.

    A row of RaggedIds has one or more targets, which differ. Raises as `check_targets`.
    """
    if not has_several(targets):
        return check_targets(targets, num_rows)
    if not isinstance(targets, RaggedIds):
        assert isinstance(targets, list | tuple)
        targets = [row if _is_row(row) else [row] for row in targets]
    ids = pack_ids("targets", targets, num_rows)
    empty = _ids.first_empty(ids.offsets)
    if empty >= 0:
        raise ValueError(
            f"targets: row {empty} has none; give it at least one item id, or leave it out"
        )
    rows = rows_of(ids)
    order = np.lexsort((ids.values, rows))
    rows, values = rows[order], ids.values[order]
    again = np.flatnonzero((values[1:] == values[:-1]) & (rows[1:] == rows[:-1]))
    if again.size:
        raise ValueError(
            f"targets: row {rows[again[0]]} has item {values[again[0]]} more than once; give each "
            "target once"
        )
    return ids


def has_several(targets: object) -> bool:
    """Whether targets are RaggedIds, or some of a list of targets are lists."""
    if isinstance(targets, RaggedIds):
        return True
    return isinstance(targets, list | tuple) and any(map(_is_row, targets))


def _is_row(value: object) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def check_inside(name: str, ids: RaggedIds | np.ndarray, num_items: int) -> None:
    """Raise IndexError unless all ids, rows of them or one per row, are rows of a table."""
    _check_items(name, ids, num_items, None)


def check_valid_items(name: str, ids: RaggedIds | np.ndarray, valid: np.ndarray) -> None:
    """Raise IndexError unless all are rows of a table that the mask `valid` [N] marks."""
    _check_items(name, ids, len(valid), valid)


def _check_items(
    name: str, ids: RaggedIds | np.ndarray, num_items: int, valid: np.ndarray | None
) -> None:
    values, offsets = ids if isinstance(ids, RaggedIds) else (ids, None)
    bad = _ids.first_bad(values, num_items, valid)
    if bad < 0:
        return
    item = f"{values[bad]}{_in_row(bad, offsets)}"
    if 0 <= values[bad] < num_items:
        raise IndexError(
            f"{name}: {item} is not an item (it is padding, or has no metadata); leave it out"
        )
    raise IndexError(
        f"{name}: item {item} is not in the index, whose ids are below {num_items}; check that "
        "both are of the same data set"
    )


def _in_row(place: int, offsets: np.ndarray | None) -> str:
    """The row of a value, for a message."""
    row = place if offsets is None else np.searchsorted(offsets, place, side="right") - 1
    return f" in row {row}"


def is_sparse(largest: int, count: int) -> bool:
    """Whether a table with a row for each id up to the largest would be nearly empty."""
    return largest >= 10 * count + 1000


def most_rows(count: int) -> int:
    """The most rows of a table for so many items; more would only take memory."""
    return max(1 << 24, 10 * count + 1000)


def valid_rows(valid: object, num_rows: int) -> np.ndarray:
    """Which rows are items, bool [num_rows]: all if `valid` is None."""
    if valid is None:
        return np.ones(num_rows, dtype=bool)
    valid = as_tensor("valid", valid)
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != (num_rows,):
        dtype, shape = getattr(valid, "dtype", type(valid)), tuple(getattr(valid, "shape", ()))
        raise ValueError(f"valid must be a bool tensor [{num_rows}], got {dtype} {shape}")
    return valid.cpu().numpy()


# Statistics


def count_items(
    targets: np.ndarray | RaggedIds, excluded: RaggedIds | None, valid: np.ndarray
) -> np.ndarray:
    """How many items compete for each row's targets, including these, int64 [rows]."""
    if isinstance(targets, RaggedIds):
        excluded = None if excluded is None else without(excluded, targets)
        targets = np.full(len(targets.offsets) - 1, -1)
    num_items = np.full(len(targets), valid.sum())
    if excluded is not None:
        rows, ids = np.divmod(np.unique(pairs_of(excluded, len(valid))), len(valid))
        gone = valid[ids] & (ids != targets[rows])
        num_items -= np.bincount(rows[gone], minlength=len(targets))
    return num_items


def target_popularity(targets: IdList, item_counts: Numbers) -> np.ndarray:
    """How many interactions each user's target has, int64 [B], to group users by.

    Parameters
    ----------
    targets : B item ids
        The targets.
    item_counts : int, shape [N]
        Interactions per item, for example `RecommendationDataset.item_counts`.

    Raises
    ------
    IndexError
        If a target has no count.
    """
    counts = as_int64("item_counts", item_counts)
    if counts.ndim != 1:
        raise ValueError(f"item_counts must have one count per item, got shape {counts.shape}")
    items = as_int64("targets", targets)
    items = check_targets(items, items.size)
    check_inside("targets", items, len(counts))
    return counts[items]
