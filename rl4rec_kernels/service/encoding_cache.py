"""Encodings of texts: each distinct text is encoded once, in batches, and the latest are cached."""

import asyncio
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rl4rec_kernels._utils.forking import renew_in_child
from rl4rec_kernels.service.batcher import Batcher
from rl4rec_kernels.service.encoding_memory import EncodingMemory
from rl4rec_kernels.service.threads import use_threads


class EncodingCache:
    """Encodes the texts of concurrent calls in batches, and caches the latest encodings.

    A text that several calls contain is encoded once, so they all get the same bits, which might
    otherwise depend on the batch. Once evicted from the cache, or in another process, a text may
    get slightly different bits (about 1e-7).

    Parameters
    ----------
    encode : callable
        Takes a list of B texts, returns finite float32 [B, D].
    max_batch_size : int
        Texts encoded together.
    batch_wait_timeout_s : float
        Seconds that a text waits for others when nothing is being encoded.
    cache_bytes : int
        Memory for encodings and their texts; 0 turns the cache off.

    Attributes
    ----------
    batcher : Batcher
        Counts the texts encoded so far, and their batches.
    lookups, hits : int
        Texts asked for so far, and how many of them were cached.
    used_bytes : int
        Memory of the cached encodings and their texts, about.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Tensor],
        *,
        max_batch_size: int,
        batch_wait_timeout_s: float,
        cache_bytes: int,
    ) -> None:
        self._encode, self._threads = encode, torch.get_num_threads()
        self.batcher: Batcher[str, Tensor] = Batcher(
            self._encode_batch,
            max_batch_size=max_batch_size,
            batch_wait_timeout_s=batch_wait_timeout_s,
            name="encode",
        )
        self._pending: dict[str, asyncio.Future[Tensor]] = {}
        self._memory = EncodingMemory(cache_bytes)
        self.lookups = self.hits = 0
        renew_in_child(self, lambda cache: cache._pending.clear())

    @property
    def used_bytes(self) -> int:
        """See the attributes of the class."""
        return self._memory.used_bytes

    async def get(self, texts: Sequence[str]) -> Tensor:
        """Return the encodings, float32 [len(texts), D].

        Raises
        ------
        Exception
            What encoding one of these texts raised.
        """
        with use_threads(1):
            vectors, places = self._memory.recall(texts)
        self.lookups += len(texts)
        if vectors is not None and not places:
            self.hits += len(texts)
            return vectors
        missing: dict[str, asyncio.Future[Tensor]] = {}
        for text in [texts[i] for i in places]:
            if text not in missing:
                missing[text] = self._pending.get(text) or self._submit(text)
        self.hits += len(texts) - len(missing)
        # wait() leaves the futures alone if this call is cancelled: others may share them.
        await asyncio.wait(missing.values())
        with use_threads(1):
            new = torch.stack([missing[texts[i]].result() for i in places])
            if vectors is None:
                return new
            vectors[places] = new
            return vectors

    def _submit(self, text: str) -> "asyncio.Future[Tensor]":
        future = self._pending[text] = self.batcher.submit(text)
        future.add_done_callback(lambda done: self._store(text, done))
        return future

    def _store(self, text: str, done: "asyncio.Future[Tensor]") -> None:
        del self._pending[text]
        if done.exception() is None:
            self._memory.remember([text], done.result()[None])

    def _encode_batch(self, texts: list[str]) -> list[Tensor]:
        torch.set_num_threads(self._threads)  # this thread may have started with another number
        return list(self._encode(texts))
