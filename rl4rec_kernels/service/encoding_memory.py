"""The latest encodings, in the rows of one matrix."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.forking import fork_safe_lock
from rl4rec_kernels.ids import as_column

_ENTRY_BYTES = 200  # what Python takes for a text and its row number, about
_FREE = np.iinfo(np.int64).max  # when a free slot was used last, so that it is not the oldest


class EncodingMemory:
    """Remembers the encodings of the latest texts.

    Each has a slot, a row of one matrix, and the slot of the least recently used text is the next
    to be written. A call copies the rows that it needs at once, so that no slot is overwritten
    while another thread reads it; for 256 texts this takes 13 microseconds.

    It may be used from several threads. In a forked child it has what its parent's had.

    Parameters
    ----------
    max_bytes : int
        Memory for the encodings and their texts; 0 remembers nothing.

    Attributes
    ----------
    used_bytes : int
        Memory in use, about.
    """

    def __init__(self, max_bytes: int) -> None:
        self.used_bytes, self._max_bytes = 0, max_bytes
        self._slots: np.ndarray | Tensor | None = None  # on the CPU an array, which is faster
        self._rows: dict[str, int] = {}
        self._texts: list[str] = []  # by row
        self._used_at = np.empty(0, np.int64)  # by row: the number of the call
        self._free: list[int] = []
        self._calls = 0
        self._lock = fork_safe_lock()

    def recall(self, texts: Sequence[str]) -> tuple[Tensor | None, list[int]]:
        """Return what is remembered.

        Returns
        -------
        vectors : Tensor, float32 [len(texts), D], or None
            The encodings; rows of texts that are not remembered are not set. None if no text is.
        missing : list of int
            The positions of texts that are not remembered.
        """
        with self._lock:
            found = list(map(self._rows.get, texts))
            missing = [i for i, row in enumerate(found) if row is None] if None in found else []
            if self._slots is None or len(missing) == len(found):
                return None, missing
            if missing:
                found = [0 if row is None else row for row in found]
            rows = as_column("rows", found, len(found))
            self._calls += 1
            self._used_at[np.delete(rows, missing) if missing else rows] = self._calls
            chosen = self._slots[rows]
            return chosen if isinstance(chosen, Tensor) else torch.from_numpy(chosen), missing

    def remember(self, texts: Sequence[str], vectors: Tensor) -> None:
        """Remember the encodings [len(texts), D] of texts.

        A text that is remembered keeps what it has: of two threads, the first decides.
        """
        rows = vectors.detach()
        new: np.ndarray | Tensor = rows.numpy() if rows.device.type == "cpu" else rows
        with self._lock, torch.inference_mode(False):
            self._calls += 1
            for text, vector in zip(texts, new, strict=True):
                size = _num_bytes(text, vector)
                if size > self._max_bytes:
                    continue
                slots = self._matrix(vector)
                if text in self._rows:
                    continue
                while self.used_bytes + size > self._max_bytes:
                    self._forget_oldest()
                # In this order: if another thread forks in between, the child's memory is right.
                self.used_bytes += size
                row = self._free.pop()
                slots[row] = vector
                self._texts[row], self._used_at[row] = text, self._calls
                self._rows[text] = row

    def _matrix(self, vector: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """The slots, made at once for the first vector, or for one of another size or device."""
        slots = self._slots
        if slots is not None and (slots.shape[1:], _device(slots)) == (
            vector.shape,
            _device(vector),
        ):
            return slots
        self._rows.clear()
        self.used_bytes = 0
        count, dim = self._max_bytes // _num_bytes("", vector), len(vector)
        self._texts, self._free = [""] * count, list(range(count))[::-1]
        self._used_at = np.full(count, _FREE)
        # Memory is used from when a slot is written. torch.empty may be set to fill all.
        slots = np.empty((count, dim), np.float32)
        if isinstance(vector, Tensor):
            slots = torch.empty(count, dim, dtype=torch.float32, device=vector.device)
        self._slots = slots
        return slots

    def _forget_oldest(self) -> None:
        row = int(self._used_at.argmin())
        text, self._texts[row] = self._texts[row], ""
        self._rows.pop(text, None)  # it is gone if this process was forked meanwhile
        assert self._slots is not None
        self.used_bytes -= _num_bytes(text, self._slots[row])
        self._used_at[row] = _FREE
        self._free.append(row)


def _device(vector: np.ndarray | Tensor) -> Any:
    return vector.device if isinstance(vector, Tensor) else "cpu"


def _num_bytes(text: str, vector: np.ndarray | Tensor) -> int:
    return sys.getsizeof(text) + vector.nbytes + _ENTRY_BYTES
