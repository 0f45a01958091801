"""Checks of item ids as callers pass them: lists, arrays, tensors or RaggedIds."""

from typing import Any

import numpy as np

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
    if kept.all():
        return RaggedIds(values, offsets)
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return RaggedIds(values[kept], kept_before[offsets])


def with_targets(targets: np.ndarray, negatives: RaggedIds) -> RaggedIds:
    """Each row's target, then its negatives: the candidates of `rank_candidates`."""
    values = np.insert(negatives.values, negatives.offsets[:-1], targets)
    return RaggedIds(values, negatives.offsets + np.arange(len(targets) + 1))


def check_inside(name: str, ids: np.ndarray, num_rows: int) -> None:
    """Check that all ids are rows of a table.

    Raises
    ------
    IndexError
        If one is not; the message names it.
    """
    outside = (ids < 0) | (ids >= num_rows)
    if outside.any():
        raise IndexError(f"{name}: item {ids[outside][0]} is not in the index, whose ids are below "
                         f"{num_rows}; check that both are of one data set")  # fmt: skip
