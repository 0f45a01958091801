"""How the client and the actor write calls and answers.

Flat bytes instead of tensors and arrays: a tensor takes Ray's pickler some 0.1 ms, which is as much
as ranking a sample.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ragged import RaggedIds
from rl4rec_kernels.retrieval.encoder import check_texts
from rl4rec_kernels.retrieval.ids import as_ragged, check_targets

Packed = tuple[list[str], str, bytes | None, Any, Any]


def pack_call(
    texts: Sequence[str], dataset_name: str, targets: Any, neg_items: Any, histories: Any
) -> Packed:
    """Check what can be checked without the items, and pack.

    Raises
    ------
    TypeError, ValueError, IndexError
        As the service raises them.
    """
    check_texts(texts)
    rows = len(texts)
    return (
        list(texts),
        dataset_name,
        None if targets is None else check_targets(targets, rows).tobytes(),
        _pack_ids("neg_items", neg_items, rows),
        _pack_ids("histories", histories, rows),
    )


def unpack_call(packed: Packed) -> tuple[Any, ...]:
    """The arguments that were packed."""
    texts, dataset_name, targets, *ids = packed
    parts = [None if part is None else RaggedIds(*map(_numbers, part)) for part in ids]
    return texts, dataset_name, None if targets is None else _numbers(targets), *parts


def pack_counts(counts: RankCounts) -> bytes:
    """Pack counts."""
    return torch.stack(tuple(counts)).numpy().tobytes()


def unpack_counts(packed: bytes) -> RankCounts:
    """The counts that were packed."""
    return RankCounts(*torch.from_numpy(_numbers(packed)).reshape(3, -1))


def pack_scores(scores: Tensor) -> np.ndarray:
    """Pack scores: as an array, which Ray shares between processes where it is large."""
    return scores.numpy()


def unpack_scores(packed: np.ndarray) -> Tensor:
    """The scores that were packed; a copy, for Ray's memory is not to be written to."""
    return torch.from_numpy(packed.copy())


def _pack_ids(name: str, ids: Any, rows: int) -> tuple[bytes, bytes] | None:
    if ids is None:
        return None
    values, offsets = as_ragged(name, ids, rows)
    return values.tobytes(), offsets.tobytes()


def _numbers(packed: bytes) -> np.ndarray:
    return np.frombuffer(packed, np.int64).copy()  # torch wants memory that may be written to
