"""How the client and the actor serialize calls and answers.

As flat bytes instead of tensors and arrays: pickling a tensor for Ray takes about 0.1 ms, as long
as ranking a sample, while bytes are sent as they are. Arguments of up to 100 KiB are sent with the
call; larger ones would go through Ray's shared memory, which takes 1.5 ms. So ids are stored in the
smallest type that holds them, and a call is sent in pieces.

Calls are packed by msgpack, on which Ray depends: unlike a pickle, it cannot run code when it is
unpacked.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.calls import Answer, Call, Ranked

_PIECE = 96_000  # bytes
_SMALL = 256  # fewer ids than this are not worth narrowing
_TYPES = {np.dtype(kind).char: np.dtype(kind) for kind in (np.uint16, np.uint32, np.int64)}


def pack_call(call: Call) -> list[bytes]:
    """Pack a call, in pieces that are each an argument of the actor's method."""
    dataset, texts, targets, candidates, histories, *wanted = call
    ids = [None if part is None else tuple(map(_write, part)) for part in (candidates, histories)]
    target_ids = None if targets is None else _write(targets)
    dataset = dataset if isinstance(dataset, str) else shown(dataset)  # which no data set is called
    packed = _msgpack().packb((dataset, texts, target_ids, ids, wanted))
    return [packed[start : start + _PIECE] for start in range(0, len(packed), _PIECE)]


def unpack_call(pieces: Sequence[bytes]) -> Call:
    """Return the call that was packed, or raise ValueError."""
    try:
        unpacked = _msgpack().unpackb(b"".join(pieces))
        dataset, texts, target_ids, ids, wanted = unpacked
        candidates, histories = (part and RaggedIds(*map(_read, part)) for part in ids)
        targets = target_ids and _read(target_ids)
        return Call(dataset, texts, targets, candidates, histories, *wanted)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"a call is not one that a client has packed: {error}") from error


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
        largest = ids.view(np.uint64).max()  # negative ids are larger than all others
        for smaller in (np.uint16, np.uint32):
            if largest <= np.iinfo(smaller).max:
                narrow = ids.astype(smaller)
                return narrow.dtype.char, narrow.tobytes()
    return ids.dtype.char, ids.tobytes()


def _read(written: Sequence[Any]) -> np.ndarray:
    char, packed = written
    return np.frombuffer(packed, _TYPES[char]).astype(np.int64)


@cache
def _msgpack() -> Any:
    return require("msgpack", "ray")
