"""Checks of item ids as callers pass them: lists, arrays, tensors or RaggedIds."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.data.splits import rows_of, select
from rl4rec_kernels.ragged import RaggedIds


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
        raise ValueError("targets must have one item id for each text, got lists of different "
                         "lengths") from None  # fmt: skip
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"targets must be item ids, got {array.dtype}")
    if array.shape != (rows,):
        raise ValueError(f"targets must have one item id for each of the {rows} texts, "
                         f"got shape {array.shape}")  # fmt: skip
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
            raise TypeError(f"{name}.{part} must be a flat array of whole numbers, got "
                            f"{array.dtype} {array.shape}")  # fmt: skip
    values, offsets = values.astype(np.int64, copy=False), offsets.astype(np.int64, copy=False)
    if len(offsets) != count + 1:
        raise ValueError(f"{name} must have one list for each of the {count} rows, "
                         f"got {len(offsets) - 1}")  # fmt: skip
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name}.offsets must rise from 0 to {len(values)}, the number of values; "
                         f"got {offsets}")  # fmt: skip
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
        raise IndexError(f"{name}: item {ids[outside][0]} is not in the index, whose ids are below "
                         f"{num_rows}; check that both are of one data set")  # fmt: skip


def check_valid_items(name: str, ids: np.ndarray, valid: np.ndarray) -> None:
    """Check that all ids are rows of a table that the mask `valid` [N] calls items.

    Raises
    ------
    IndexError
        If one is not; the message names it.
    """
    check_inside(name, ids, len(valid))
    if not valid[ids].all():
        raise IndexError(f"{name}: {ids[~valid[ids]][0]} is no item by valid (it is padding, or "
                         "had no metadata); leave it out")  # fmt: skip


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
        raise ValueError(f"valid must be a bool tensor [{num_rows}], got "
                         f"{getattr(valid, 'dtype', type(valid).__name__)} "
                         f"{tuple(getattr(valid, 'shape', ()))}")  # fmt: skip
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
