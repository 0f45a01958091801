"""Lists of ids of different lengths, stored without padding."""

import struct
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np


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
