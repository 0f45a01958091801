"""Encodings of texts: each distinct text is encoded once, in batches, and the latest are cached."""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rl4rec_kernels._utils.forking import renew_in_child
from rl4rec_kernels.service.batcher import Batcher
from rl4rec_kernels.service.threads import use_threads

_ENTRY_BYTES = 400  # overhead of a cached text and its tensor, about


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
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self.lookups = self.hits = self.used_bytes = 0
        renew_in_child(self, lambda cache: cache._pending.clear())

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
            cached = self._cache.get(text)
            if cached is None:
                missing[text] = self._pending.get(text) or self._submit(text)
            else:
                self._cache.move_to_end(text)
                vectors[text] = cached
        self.lookups += len(texts)
        self.hits += len(texts) - len(missing)
        if missing:
            # wait() leaves the futures alone if this call is cancelled: others may share them.
            await asyncio.wait(missing.values())
            vectors.update((text, future.result()) for text, future in missing.items())
        with use_threads(1):
            return torch.stack([vectors[text] for text in texts])

    def _submit(self, text: str) -> "asyncio.Future[Tensor]":
        future = self._pending[text] = self.batcher.submit(text)
        future.add_done_callback(lambda done: self._store(text, done))
        return future

    def _store(self, text: str, done: "asyncio.Future[Tensor]") -> None:
        del self._pending[text]
        if done.exception() is not None:
            return
        self._cache[text] = done.result()
        self.used_bytes += _num_bytes(text, done.result())
        while self.used_bytes > self._cache_bytes:
            self.used_bytes -= _num_bytes(*self._cache.popitem(last=False))

    def _encode_batch(self, texts: list[str]) -> list[Tensor]:
        torch.set_num_threads(self._threads)  # this thread may have started with another number
        # Copies: a view of one row would keep the whole batch in memory.
        return [vector.clone() for vector in self._encode(texts)]


def _num_bytes(text: str, vector: Tensor) -> int:
    return sys.getsizeof(text) + vector.nbytes + _ENTRY_BYTES
