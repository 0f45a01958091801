"""Large calls in parts, so that they take little more memory than their texts and answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rl4rec_kernels.ids import slice_rows
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.calls import Call, Ranked

_CHAR_BYTES, _TEXT_BYTES = 2, 100  # of a text, about; Python takes 1 to 4 bytes per character
_RANKED_BYTES = 28  # of a text's answer: three int64 and a float32


def cut(call: Call, size: int) -> Iterator[Call]:
    """Cut a call into calls of up to `size` texts."""
    for start in range(0, len(call.texts), size):
        end = min(start + size, len(call.texts))
        candidates, histories = (
            None if ids is None else slice_rows(ids, start, end)
            for ids in (call.candidates, call.histories)
        )
        yield call._replace(
            texts=call.texts[start:end],
            targets=None if call.targets is None else call.targets[start:end],
            candidates=candidates,
            histories=histories,
        )


def join(answers: Sequence[Any]) -> Any:
    """Join the answers to the parts of a call."""
    first = answers[0]
    if isinstance(first, Ranked):
        counts, log_probs = zip(*answers, strict=True)
        return Ranked(join(counts), torch.cat(log_probs))
    if isinstance(first, RankCounts):
        return RankCounts(*map(torch.cat, zip(*answers, strict=True)))
    widest = max(answer.shape[1] for answer in answers)
    return torch.cat(
        [
            torch.nn.functional.pad(answer, (0, widest - answer.shape[1]), value=-torch.inf)
            for answer in answers
        ]
    )


def held_bytes(call: Call, num_rows: int) -> int:
    """Memory that a service holds for a call until it is answered, about.

    Its texts and ids are held twice, as they came and as they are used, and so is its answer.
    """
    ids = [call.targets, *(call.candidates or ()), *(call.histories or ())]
    width = _RANKED_BYTES
    if call.wants_scores:
        lengths = None if call.candidates is None else np.diff(call.candidates.offsets)
        width = 4 * (num_rows if lengths is None else int(lengths.max()))
    given = (
        sum(map(len, call.texts)) * _CHAR_BYTES
        + _TEXT_BYTES * len(call.texts)
        + sum(part.nbytes for part in ids if part is not None)
    )
    return 2 * (given + width * len(call.texts))
