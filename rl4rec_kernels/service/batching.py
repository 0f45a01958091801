"""A service for many concurrent callers, which batches their calls."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import MAX_SECONDS, amount, number
from rl4rec_kernels.service.base import AsyncRetrievalBackend
from rl4rec_kernels.service.batcher import AdmissionQueue, Batcher, MemoryBudget
from rl4rec_kernels.service.calls import Answer, Call
from rl4rec_kernels.service.encoding_cache import EncodingCache
from rl4rec_kernels.service.items import Items, answer_calls, find_items
from rl4rec_kernels.service.parts import cut, held_bytes, join
from rl4rec_kernels.service.threads import free_processors, use_threads

_LATENCIES = 4096  # latest calls, from which percentiles are computed
_SHORT_WORK = 1 << 24  # multiplications: about a millisecond, which may block the loop
_SHORT_CATALOG = 1 << 10  # rows
_THREAD_WORK = 1 << 20  # multiplications from which several threads are worth while


@dataclass(frozen=True)
class Limits:
    """Limits of a service, and how it batches calls.

    Attributes
    ----------
    max_batch_size : int
        Texts encoded together.
    batch_wait_timeout_s : float
        Seconds that a text waits for others when nothing is being encoded.
    max_rank_batch_size : int
        Texts ranked together.
    cache_mib : int
        Memory for cached encodings, in MiB; 0 turns the cache off.
    max_inflight_texts : int
        Texts being processed at a time, all calls together; further calls wait in the queue.
    max_held_mib : int
        Memory of all calls, those in the queue included, in MiB: their texts, ids and answers.
        Beyond it a call gets a `ServiceOverloadedError`, and `RetrievalClient` sends it again until
        its own time-out. A call that alone takes more is a ValueError.
    queue_timeout_s : float
        Seconds that a call waits in the queue before it gets a `ServiceOverloadedError`.
    max_chars : int
        Characters per text. A tokenizer reads all of them, though an encoder uses only the first.

    Raises
    ------
    TypeError, ValueError
        If a limit is not a number, or out of range.
    """

    max_batch_size: int = 64
    batch_wait_timeout_s: float = 0.002
    max_rank_batch_size: int = 1024
    cache_mib: int = 256
    max_inflight_texts: int = 8192
    max_held_mib: int = 1024
    queue_timeout_s: float = 120.0
    max_chars: int = 100_000

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_rank_batch_size", "max_inflight_texts", "max_chars"):
            amount(name, getattr(self, name), 1)
        amount("max_held_mib", self.max_held_mib, 1)
        amount("cache_mib", self.cache_mib, 0)
        for name in ("batch_wait_timeout_s", "queue_timeout_s"):
            number(name, getattr(self, name), 0, MAX_SECONDS)


class BatchingService(AsyncRetrievalBackend):
    """Answers concurrent calls in batches; each gets what `LocalRetrievalService` would answer.

    Its coroutines must run on a single asyncio loop. Encoding and ranking each have their own
    thread, so they do not block the loop, and calls whose texts are cached do not wait for the
    encoder.

    Parameters
    ----------
    items : mapping of str to Items
        The data sets by name.
    encode : callable
        Takes texts, returns finite float32 [B, D].
    limits : Limits
        How calls are batched and limited.
    """

    def __init__(
        self,
        items: Mapping[str, Items],
        encode: Callable[[Sequence[str]], Tensor],
        limits: Limits,
    ) -> None:
        self._items, self._limits = dict(items), limits
        self._encodings = EncodingCache(
            encode,
            max_batch_size=limits.max_batch_size,
            batch_wait_timeout_s=limits.batch_wait_timeout_s,
            cache_bytes=limits.cache_mib << 20,
        )
        self._ranker: Batcher[tuple[Call, Tensor], Answer] = Batcher(
            self._rank,
            max_batch_size=limits.max_rank_batch_size,
            name="rank",
            is_short=lambda batch: self._short_work(batch) is not None,
        )
        self._admission = AdmissionQueue(limits.max_inflight_texts, limits.queue_timeout_s)
        self._memory = MemoryBudget(limits.max_held_mib)
        self._part = min(limits.max_rank_batch_size, limits.max_inflight_texts)
        self._threads = torch.get_num_threads()
        self._started = time.monotonic()
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._calls = self._texts = self._errors = self._ranked_texts = 0

    def load(self) -> dict[str, Any]:
        """Return counts since the service started, and percentiles of the latest calls' latency."""
        seconds = sorted(self._latencies)

        def percentile(p: int) -> float | None:
            if not seconds:
                return None
            return round(1000 * seconds[min(len(seconds) - 1, p * len(seconds) // 100)], 3)

        encodings, encoder = self._encodings, self._encodings.batcher
        return {
            "uptime_s": round(time.monotonic() - self._started, 1),
            "calls": self._calls,
            "errors": self._errors,
            "texts": self._texts,
            "inflight_texts": self._admission.used,
            "queued_calls": self._admission.waiting,
            "encoded_texts": encoder.items,
            "encode_batch_size": round(encoder.items / max(1, encoder.batches), 1),
            "rank_batch_size": round(self._ranked_texts / max(1, self._ranker.batches), 1),
            "cache_hit_ratio": round(encodings.hits / max(1, encodings.lookups), 4),
            "cache_mib": round(encodings.used_bytes / 2**20, 1),
            "latency_ms": {f"p{p}": percentile(p) for p in (50, 90, 99)},
        }

    async def answer_async(self, call: Call) -> Any:
        """Check and answer a call together with others, see `RetrievalBackend`."""
        start = time.monotonic()
        self._calls += 1
        try:
            self._check_call(call)
            self._texts += len(call.texts)
            with self._memory.hold(held_bytes(call, self._items[call.dataset].num_rows)):
                if len(call.texts) <= self._part:
                    answer = await self._answer_part(call)
                else:  # one part after another, between those of other calls
                    answer = join([await self._answer_part(part) for part in cut(call, self._part)])
        except Exception:
            self._errors += 1
            raise
        self._latencies.append(time.monotonic() - start)
        return answer

    async def _answer_part(self, call: Call) -> Any:
        rows = len(call.texts)
        await self._admission.acquire(rows)
        try:
            query = await self._encodings.get(call.texts)
            # Scores of all items are as large as a table: never several calls at once.
            alone = call.wants_scores and call.candidates is None
            size = self._limits.max_rank_batch_size if alone else rows
            return await self._ranker.submit((call, query), size)
        finally:
            self._admission.release(rows)

    def _check(self, *arguments: Any) -> Call:
        try:
            return super()._check(*arguments)
        except Exception:
            self._calls += 1
            self._errors += 1
            raise

    def _check_call(self, call: Call) -> None:
        longest = max(map(len, call.texts))
        if longest > self._limits.max_chars:
            i = [len(text) for text in call.texts].index(longest)
            raise ValueError(
                f"texts[{i}] must have at most {self._limits.max_chars:,} characters, got "
                f"{longest:,}; cut it, since the encoder reads only the beginning"
            )
        find_items(self._items, call.dataset).check_ids(call)

    def _short_work(self, batch: list[tuple[Call, Tensor]]) -> int | None:
        """Multiplications, if so few that calls are ranked right away on the loop; else None.

        Calls among negatives gain hardly anything from a batch, because each query has its own. But
        all items are read once for many queries, so those calls are better batched.
        """
        work = 0
        for call, query in batch:
            items, candidates = self._items[call.dataset], call.candidates
            if not items.is_local or (candidates is None and items.num_rows > _SHORT_CATALOG):
                return None
            pairs = len(query) * items.num_rows if candidates is None else len(candidates.values)
            passes = 1 if call.temperature is None else 2
            work += passes * pairs * query.shape[1]
        return work if work <= _SHORT_WORK else None

    def _rank(self, batch: list[tuple[Call, Tensor]]) -> list[Answer]:
        work = self._short_work(batch)
        if work is None:
            torch.set_num_threads(self._threads)  # this thread may have started with another number
            return self._answer_batch(batch)
        with use_threads(1 if work < _THREAD_WORK else min(self._threads, free_processors())):
            return self._answer_batch(batch)

    def _answer_batch(self, batch: list[tuple[Call, Tensor]]) -> list[Answer]:
        query = batch[0][1] if len(batch) == 1 else torch.cat([query for _, query in batch])
        self._ranked_texts += len(query)
        return answer_calls(self._items, [call for call, _ in batch], query)
