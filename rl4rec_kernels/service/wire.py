"""How the client and the actor write calls and answers.

Flat bytes instead of tensors and arrays: a tensor takes Ray's pickler some 0.1 ms, which is as much
as ranking a sample. Bytes pass it as they are. Up to 100 KiB of them travel with the call; more
would go through Ray's shared memory, which takes 1.5 ms. So ids are written in as few bytes as they
fit in, and a call in pieces.
"""

import pickle
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.requests import Answer, Arguments

_PIECE = 96_000  # bytes
_SMALL = 256  # ids that are not worth narrowing


def pack_call(dataset_name: str, arguments: Arguments) -> list[bytes]:
    """Pack a call, in pieces that are each an argument of the actor's method."""
    texts, targets, negatives, histories, wants_scores = arguments
    ids = [None if part is None else tuple(map(_write, part)) for part in (negatives, histories)]
    target_ids = None if targets is None else _write(targets)
    call = dataset_name, texts, target_ids, *ids, wants_scores
    packed = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
    return [packed[start : start + _PIECE] for start in range(0, len(packed), _PIECE)]


def unpack_call(pieces: Sequence[bytes]) -> tuple[str, Arguments]:
    """The data set's name and the arguments that were packed."""
    dataset_name, texts, target_ids, *ids, wants_scores = pickle.loads(b"".join(pieces))
    negatives, histories = (part and RaggedIds(*map(_read, part)) for part in ids)
    targets = target_ids and _read(target_ids)
    return dataset_name, Arguments(texts, targets, negatives, histories, wants_scores)


def pack_answer(answer: Answer) -> bytes | np.ndarray:
    """Pack an answer: counts as bytes, scores as an array, which Ray shares where it is large."""
    if isinstance(answer, Tensor):
        return answer.numpy()
    return b"".join([count.numpy().tobytes() for count in answer])


def unpack_counts(packed: bytes) -> RankCounts:
    """The counts that were packed."""
    # A copy: torch wants memory that may be written to.
    return RankCounts(*torch.from_numpy(np.frombuffer(packed, np.int64).copy()).reshape(3, -1))


def unpack_scores(packed: np.ndarray) -> Tensor:
    """The scores that were packed; a copy, for Ray's memory is not to be written to."""
    return torch.from_numpy(packed.copy())


def _write(ids: np.ndarray) -> tuple[str, bytes]:
    """An int64 array as the smallest type that holds its numbers, and bytes."""
    if ids.size > _SMALL:
        for smaller in (np.uint16, np.uint32):
            narrow = ids.astype(smaller)
            if np.array_equal(narrow, ids):
                return narrow.dtype.char, narrow.tobytes()
    return ids.dtype.char, ids.tobytes()


def _read(written: tuple[str, bytes]) -> np.ndarray:
    return np.frombuffer(written[1], written[0]).astype(np.int64)
