"""Ids of items: ragged lists of them, and every check of ids as callers pass them."""

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RaggedIds(NamedTuple):
    """Rows of ids in compressed sparse row form.

    Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``. Both fields may be torch tensors or NumPy
    arrays. Being a named tuple, it passes through ``torch.compile`` and pytrees as it is.

    Attributes
    ----------
    values : int32 or int64, shape [nnz]
        The ids of all rows, one row after the other.
    offsets : int64, shape [rows + 1]
        Where each row starts; the first is 0 and the last is ``nnz``.
    """

    values: Any
    offsets: Any

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> "RaggedIds":
        """Pack a list of id lists (NumPy int64 arrays come out).

        Raises
        ------
        TypeError
            If a row holds something other than whole numbers.
        ValueError
            If a number is 2^63 or more.
        """
        rows = list(rows)
        if set(map(type, rows)) == {list}:
            packed = cls._from_plain_lists(rows)
            if packed is not None:
                return packed
        arrays = [np.asarray(row) for row in rows]
        for i, array in enumerate(arrays):
            if array.size and (array.dtype.kind not in "iu" or array.ndim != 1):
                raise TypeError(f"row {i} must be a flat list of whole numbers, got {array!r}")
            if array.size and array.dtype == np.uint64 and array.max() >= 2**63:
                raise ValueError(f"row {i} holds {array.max()}, but ids must be less than 2^63")
        lengths = np.fromiter((a.size for a in arrays), dtype=np.int64, count=len(arrays))
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        filled = [array for array in arrays if array.size]
        values = (
            np.concatenate(filled, dtype=np.int64, casting="unsafe")
            if filled
            else np.empty(0, np.int64)
        )
        return cls(values, offsets)

    @classmethod
    def _from_plain_lists(cls, rows: list[Any]) -> "RaggedIds | None":
        """Pack lists of int without an array for each; None if they hold anything else."""
        flat = list(chain.from_iterable(rows))
        memory = bytearray(8 * len(flat))
        try:
            struct.pack_into(f"{len(flat)}q", memory, 0, *flat)  # 4 times as fast as np.array
        except struct.error:
            return None
        values = np.frombuffer(memory, np.int64)
        if any(type(flat[i]) is bool for i in np.flatnonzero((values == 0) | (values == 1))):
            return None
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
        return cls(values, offsets)

    def to_lists(self) -> list[list[int]]:
        """Unpack into plain lists."""
        values, offsets = np.asarray(self.values), np.asarray(self.offsets)
        return [values[a:b].tolist() for a, b in pairwise(offsets)]


def rows_of(ragged: RaggedIds) -> np.ndarray:
    """Return the row of every value, int64 [nnz]."""
    lengths = np.diff(ragged.offsets)
    return np.repeat(np.arange(lengths.size, dtype=np.int64), lengths)


def select(ragged: RaggedIds, keep: np.ndarray) -> RaggedIds:
    """Keep the values where the mask `keep` [nnz] is set; rows stay, though some may be empty."""
    ends = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
    return RaggedIds(ragged.values[keep], ends[ragged.offsets])


def merge(parts: Sequence[RaggedIds | None]) -> RaggedIds:
    """The rows of several RaggedIds of NumPy arrays, one after the other."""
    given = [part for part in parts if part is not None]
    if len(given) == 1:
        return given[0]
    starts = accumulate((len(part.values) for part in given), initial=0)
    offsets = [np.zeros(1, np.int64)]
    offsets += [part.offsets[1:] + start for part, start in zip(given, starts, strict=False)]
    return RaggedIds(np.concatenate([part.values for part in given]), np.concatenate(offsets))


def check_targets(targets: Any, rows: int) -> np.ndarray:
    """Turn targets into int64 [rows].

    Raises
    ------
    TypeError, ValueError
        If they are not whole numbers, or not one for each row.
    """
    if targets is None:
        raise ValueError("targets is None: pass the item id that each row is about")
    try:
        array = np.asarray(targets)
    except ValueError:  # rows of different lengths
        raise ValueError(
            "targets must have one item id for each text, got lists of different lengths"
        ) from None
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"targets must be item ids, got {array.dtype}")
    if array.shape != (rows,):
        raise ValueError(
            f"targets must have one item id for each of the {rows} texts, got shape {array.shape}"
        )
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise IndexError(f"targets: {array.max()} is no item id, these are below 2^63")
    return array.astype(np.int64)


def as_ragged(name: str, rows: Any, count: int) -> RaggedIds:
    """Turn lists of ids, an array or RaggedIds into int64 RaggedIds of NumPy arrays, without -1.

    Raises
    ------
    TypeError, ValueError, IndexError
        If they are not whole numbers, not `count` rows, or below -1.
    """
    if not isinstance(rows, RaggedIds):
        if isinstance(rows, str) or not hasattr(rows, "__len__"):
            raise TypeError(f"{name} must be a list of lists of item ids, got {rows!r}")
        try:
            rows = RaggedIds.from_lists(rows)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
    values, offsets = (np.asarray(part) for part in rows)
    for part, array in (("values", values), ("offsets", offsets)):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise TypeError(
                f"{name}.{part} must be a flat array of whole numbers, got "
                f"{array.dtype} {array.shape}"
            )
    values, offsets = values.astype(np.int64, copy=False), offsets.astype(np.int64, copy=False)
    if len(offsets) != count + 1:
        raise ValueError(
            f"{name} must have one list for each of the {count} rows, got {len(offsets) - 1}"
        )
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"{name}.offsets must rise from 0 to {len(values)}, the number of values; got {offsets}"
        )
    if values.size and values.min() < -1:
        raise IndexError(f"{name}: {values.min()} is no item id (-1 is padding)")
    kept = values != -1
    ragged = RaggedIds(values, offsets)
    return ragged if kept.all() else select(ragged, kept)


def with_targets(targets: np.ndarray, negatives: RaggedIds) -> RaggedIds:
    """Each row's target, then its negatives: the candidates of `rank_candidates`."""
    offsets = negatives.offsets + np.arange(len(targets) + 1)
    values = np.empty(offsets[-1], np.int64)  # np.insert takes several times as long
    is_negative = np.ones(len(values), dtype=bool)
    is_negative[offsets[:-1]] = False
    values[offsets[:-1]] = targets
    values[is_negative] = negatives.values
    return RaggedIds(values, offsets)


def check_inside(name: str, ids: np.ndarray, num_rows: int) -> None:
    """Check that all ids are rows of a table.

    Raises
    ------
    IndexError
        If one is not; the message names it.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= num_rows):
        outside = (ids < 0) | (ids >= num_rows)
        raise IndexError(
            f"{name}: item {ids[outside][0]} is not in the index, whose ids are below "
            f"{num_rows}; check that both are of one data set"
        )


def check_valid_items(name: str, ids: np.ndarray, valid: np.ndarray) -> None:
    """Check that all ids are rows of a table that the mask `valid` [N] calls items.

    Raises
    ------
    IndexError
        If one is not; the message names it.
    """
    check_inside(name, ids, len(valid))
    if not valid[ids].all():
        raise IndexError(
            f"{name}: {ids[~valid[ids]][0]} is no item by valid (it is padding, or "
            "had no metadata); leave it out"
        )


def valid_rows(valid: Any, num_rows: int) -> np.ndarray:
    """Which rows are items, bool [num_rows]; all where `valid` is None.

    Raises
    ------
    ValueError
        If it is no such mask.
    """
    if valid is None:
        return np.ones(num_rows, dtype=bool)
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != (num_rows,):
        raise ValueError(
            f"valid must be a bool tensor [{num_rows}], got "
            f"{getattr(valid, 'dtype', type(valid).__name__)} "
            f"{tuple(getattr(valid, 'shape', ()))}"
        )
    return valid.cpu().numpy()


def count_items(targets: np.ndarray, excluded: RaggedIds | None, valid: np.ndarray) -> np.ndarray:
    """How many items may compete for each target, itself included, int64 [B]."""
    num_items = np.full(len(targets), valid.sum())
    if excluded is not None:
        pairs = np.unique(as_pairs(rows_of(excluded), excluded.values, len(valid)))
        rows, ids = np.divmod(pairs, len(valid))
        gone = valid[ids] & (ids != targets[rows])
        num_items -= np.bincount(rows[gone], minlength=len(targets))
    return num_items


def as_pairs(rows: np.ndarray, ids: np.ndarray, num_rows: int) -> np.ndarray:
    """A row and an id of a table of `num_rows` as one number."""
    return rows * num_rows + ids


def target_popularity(targets: Any, item_counts: Any) -> np.ndarray:
    """How often each user's target was taken, int64 [B], to group users by.

    Parameters
    ----------
    targets : B item ids
        The targets.
    item_counts : int, shape [N]
        How often each item was taken, for example `RecommendationDataset.item_counts`.

    Raises
    ------
    IndexError
        If a target has no count.
    """
    counts = np.asarray(item_counts)
    items = check_targets(targets, len(targets))
    if items.size and not 0 <= items.min() <= items.max() < len(counts):
        raise IndexError(
            f"targets go from {items.min()} to {items.max()}, but item_counts has "
            f"{len(counts)} items; check that both are of one data set"
        )
    return counts[items]
