"""How the client and the actor serialize calls and answers.

As flat bytes instead of tensors and arrays: pickling a tensor for Ray takes about 0.1 ms, as long
as ranking a sample, while bytes are sent as they are. Arguments of up to 100 KiB are sent with the
call; larger ones would go through Ray's shared memory, which takes 1.5 ms. So ids are stored in the
smallest type that holds them, and a call is sent in pieces.
"""

import pickle
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.calls import Answer, Call, Ranked

_PIECE = 96_000  # bytes
_SMALL = 256  # fewer ids than this are not worth narrowing


def pack_call(call: Call) -> list[bytes]:
    """Pack a call, in pieces that are each an argument of the actor's method."""
    dataset, texts, targets, candidates, histories, *wanted = call
    ids = [None if part is None else tuple(map(_write, part)) for part in (candidates, histories)]
    target_ids = None if targets is None else _write(targets)
    packed = pickle.dumps((dataset, texts, target_ids, ids, wanted), pickle.HIGHEST_PROTOCOL)
    return [packed[start : start + _PIECE] for start in range(0, len(packed), _PIECE)]


def unpack_call(pieces: Sequence[bytes]) -> Call:
    """Return the call that was packed."""
    dataset, texts, target_ids, ids, wanted = pickle.loads(b"".join(pieces))
    candidates, histories = (part and RaggedIds(*map(_read, part)) for part in ids)
    targets = target_ids and _read(target_ids)
    return Call(dataset, texts, targets, candidates, histories, *wanted)


def pack_answer(answer: Answer) -> bytes | np.ndarray:
    """Pack an answer: numbers of texts as bytes; scores as an array, which Ray shares if large."""
    if isinstance(answer, Tensor):
        return answer.numpy()
    parts = (*answer.counts, answer.log_probs) if isinstance(answer, Ranked) else answer
    return b"".join([part.numpy().tobytes() for part in parts])


def unpack_answer(packed: bytes | np.ndarray, has_log_probs: bool = False) -> Answer:
    """Return the answer that was packed; a copy, because torch needs writable memory."""
    if isinstance(packed, np.ndarray):
        return torch.from_numpy(packed.copy())
    end = len(packed) * 6 // 7 if has_log_probs else len(packed)  # three int64 and a float32 a text
    counts = np.frombuffer(packed[:end], np.int64).copy()
    ranks = RankCounts(*torch.from_numpy(counts).reshape(3, -1))
    if not has_log_probs:
        return ranks
    return Ranked(ranks, torch.from_numpy(np.frombuffer(packed[end:], np.float32).copy()))


def _write(ids: np.ndarray) -> tuple[str, bytes]:
    """Return an int64 array as bytes of the smallest type that holds its values, with that type."""
    if ids.size > _SMALL:
        for smaller in (np.uint16, np.uint32):
            narrow = ids.astype(smaller)
            if np.array_equal(narrow, ids):
                return narrow.dtype.char, narrow.tobytes()
    return ids.dtype.char, ids.tobytes()


def _read(written: tuple[str, bytes]) -> np.ndarray:
    return np.frombuffer(written[1], written[0]).astype(np.int64)
