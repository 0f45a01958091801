"""EncodingCache of texts: each text once, many at a time, the latest ones kept."""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rl4rec_kernels.service.batcher import Batcher
from rl4rec_kernels.service.threads import use_threads

_ENTRY_BYTES = 400  # what a text and a tensor take beside their content, about


class EncodingCache:
    """Encodes the texts of concurrent calls together and remembers the latest.

    A text that several calls have is encoded once, so that they get the same bits: those may
    otherwise depend on the batch that a text is encoded in. After it was forgotten, and in another
    process, a text may get other last bits (about 1e-7).

    Parameters
    ----------
    encode : callable
        Takes a list of B texts, returns finite float32 [B, D].
    max_batch : int
        Texts encoded at once.
    max_wait_s : float
        Seconds that a text waits for others when nothing is being encoded.
    cache_bytes : int
        Memory for encodings and their texts; 0 remembers none.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Tensor],
        *,
        max_batch: int,
        max_wait_s: float,
        cache_bytes: int,
    ) -> None:
        self._encode, self._threads = encode, torch.get_num_threads()
        self._batcher: Batcher[str, Tensor] = Batcher(
            self._work, max_size=max_batch, max_wait_s=max_wait_s, name="encode"
        )
        self._flying: dict[str, asyncio.Future[Tensor]] = {}
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._free = self._capacity = cache_bytes
        self.asked = self.found = 0

    @property
    def encoded(self) -> int:
        """Texts encoded so far."""
        return self._batcher.items

    @property
    def batches(self) -> int:
        """Batches encoded so far."""
        return self._batcher.batches

    @property
    def kept_bytes(self) -> int:
        """Memory that is in use for remembering, about."""
        return self._capacity - self._free

    async def get(self, texts: Sequence[str]) -> Tensor:
        """Return the encodings, float32 [len(texts), D].

        Raises
        ------
        Exception
            What encoding one of these texts raised.
        """
        vectors: dict[str, Tensor] = {}
        missing: dict[str, asyncio.Future[Tensor]] = {}
        for text in texts:
            if text in vectors or text in missing:
                continue
            kept = self._kept.get(text)
            if kept is None:
                missing[text] = self._flying.get(text) or self._launch(text)
            else:
                self._kept.move_to_end(text)
                vectors[text] = kept
        self.asked += len(texts)
        self.found += len(texts) - len(missing)
        if missing:
            # wait() leaves the futures alone if this call is cancelled: others may share them.
            await asyncio.wait(missing.values())
            vectors.update((text, future.result()) for text, future in missing.items())
        with use_threads(1):
            return torch.stack([vectors[text] for text in texts])

    def close(self) -> None:
        """End the thread."""
        self._batcher.close()

    def _launch(self, text: str) -> "asyncio.Future[Tensor]":
        future = self._flying[text] = self._batcher.submit(text)
        future.add_done_callback(lambda done: self._land(text, done))
        return future

    def _land(self, text: str, done: "asyncio.Future[Tensor]") -> None:
        del self._flying[text]
        if done.exception() is not None:
            return
        self._kept[text] = done.result()
        self._free -= _bytes(text, done.result())
        while self._free < 0:
            self._free += _bytes(*self._kept.popitem(last=False))

    def _work(self, texts: list[str]) -> list[Tensor]:
        torch.set_num_threads(self._threads)  # of this thread, which began with any number
        # Copies: a view of one row would keep the whole batch in memory.
        return [vector.clone() for vector in self._encode(texts)]


def _bytes(text: str, vector: Tensor) -> int:
    return sys.getsizeof(text) + vector.nbytes + _ENTRY_BYTES
