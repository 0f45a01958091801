"""A service for many concurrent callers: encodes and ranks what they send together."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.batcher import AdmissionQueue, Batcher
from rl4rec_kernels.service.encoding_cache import EncodingCache
from rl4rec_kernels.service.local import find_items
from rl4rec_kernels.service.requests import (
    Answer,
    Arguments,
    Items,
    Request,
    answer_together,
    check_arguments,
    make_request,
)
from rl4rec_kernels.service.threads import free_processors, use_threads

_LATENCIES = 4096  # calls that percentiles are taken of
_SHORT_WORK = 1 << 24  # multiplications: about a millisecond, in which the loop stands still
_SHORT_CATALOG = 1 << 10  # rows
_THREAD_WORK = 1 << 20  # multiplications that are worth a look at whether processors are free


@dataclass(frozen=True)
class Limits:
    """What a service takes, and how it merges.

    Attributes
    ----------
    max_batch : int
        Texts that are encoded at once.
    max_wait_ms : float
        Milliseconds that a text waits for others when nothing is being encoded.
    max_rows : int
        Rows that are ranked at once.
    cache_mib : int
        Memory for encodings that are remembered; 0 for none.
    capacity : int
        Texts that are worked on or queued; further calls wait in line.
    queue_timeout_s : float
        Seconds that a call waits in line before it gets a `ServiceOverloadedError`.
    max_chars : int
        Characters of a text. A tokenizer reads all of them, though an encoder only the first few.

    Raises
    ------
    TypeError, ValueError
        If one is no number of that kind.
    """

    max_batch: int = 64
    max_wait_ms: float = 2.0
    max_rows: int = 1024
    cache_mib: int = 256
    capacity: int = 8192
    queue_timeout_s: float = 120.0
    max_chars: int = 100_000

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch", 1),
            ("max_rows", 1),
            ("cache_mib", 0),
            ("capacity", 1),
            ("max_chars", 1),
        ):
            whole_number(name, getattr(self, name), least)
        for name in ("max_wait_ms", "queue_timeout_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


class BatchingService:
    """Answers concurrent calls as `LocalRetrievalService` answers each, with the same arguments.

    Its coroutines must run on one asyncio loop. Encoding and ranking run in a thread each, so the
    loop is never blocked by them, and calls whose texts are remembered do not wait for an encoder.

    Parameters
    ----------
    items : mapping of str to Items
        The data sets by name.
    encode : callable
        Takes texts, returns finite float32 [B, D].
    limits : Limits
        How calls are merged and bounded.
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
            max_batch=limits.max_batch,
            max_wait_s=limits.max_wait_ms / 1000,
            cache_bytes=limits.cache_mib << 20,
        )
        self._ranker: Batcher[tuple[Request, Tensor], Answer] = Batcher(
            self._rank, max_size=limits.max_rows, name="rank", is_short=self._is_short
        )
        self._gate = AdmissionQueue(limits.capacity, limits.queue_timeout_s)
        self._threads = torch.get_num_threads()
        self._started = time.monotonic()
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._calls = self._texts = self._errors = 0

    async def calculate_reward(
        self, texts: Sequence[str], dataset_name: str, targets: Any = None, neg_items: Any = None
    ) -> Tensor:
        """As `LocalRetrievalService.calculate_reward`."""
        return await self._answer(
            dataset_name, lambda: check_arguments(texts, targets, neg_items, None, True)
        )

    async def rank(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any,
        neg_items: Any = None,
        histories: Any = None,
    ) -> RankCounts:
        """As `LocalRetrievalService.rank`."""
        return await self._answer(
            dataset_name, lambda: check_arguments(texts, targets, neg_items, histories, False)
        )

    async def answer(self, dataset_name: str, arguments: Arguments) -> Any:
        """Either, for arguments that were checked."""
        return await self._answer(dataset_name, lambda: arguments)

    def load(self) -> dict[str, Any]:
        """Describe what the service does: counts since its start, and the latest calls' times."""
        seconds = sorted(self._latencies)

        def percentile(share: float) -> float | None:
            if not seconds:
                return None
            return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3)

        encodings = self._encodings
        return {
            "uptime_s": round(time.monotonic() - self._started, 1),
            "calls": self._calls,
            "errors": self._errors,
            "texts": self._texts,
            "texts_in_work": self._gate.used,
            "calls_in_line": self._gate.waiting,
            "texts_encoded": encodings.encoded,
            "texts_per_encoding": round(encodings.encoded / max(1, encodings.batches), 1),
            "texts_remembered_share": round(encodings.found / max(1, encodings.asked), 4),
            "cache_mib": round(encodings.kept_bytes / 2**20, 1),
            "calls_per_ranking": round(self._ranker.items / max(1, self._ranker.batches), 1),
            "latency_ms": {f"p{round(100 * p)}": percentile(p) for p in (0.5, 0.9, 0.99)},
        }

    def close(self) -> None:
        """End the threads."""
        self._encodings.close()
        self._ranker.close()

    def _check(self, dataset_name: str, arguments: Callable[[], Arguments]) -> Request:
        items = find_items(self._items, dataset_name)
        checked = arguments()
        texts = checked.texts
        longest = max(map(len, texts))
        if longest > self._limits.max_chars:
            i = [len(text) for text in texts].index(longest)
            raise ValueError(
                f"texts[{i}] has {longest:,} characters but this service takes "
                f"{self._limits.max_chars:,}; cut it: an encoder reads only the "
                "beginning"
            )
        return make_request(items, dataset_name, checked)

    async def _answer(self, dataset_name: str, arguments: Callable[[], Arguments]) -> Any:
        start = time.monotonic()
        self._calls += 1
        try:
            request = self._check(dataset_name, arguments)
            rows = len(request.texts)
            self._texts += rows
            await self._gate.enter(rows)
            try:
                query = await self._encodings.get(request.texts)
                # Scores of all items are as large as a table: not several calls' at once.
                alone = request.wants_scores and request.candidates is None
                size = self._limits.max_rows if alone else rows
                answer = await self._ranker.submit((request, query), size)
            finally:
                self._gate.leave(rows)
        except Exception:
            self._errors += 1
            raise
        self._latencies.append(time.monotonic() - start)
        return answer

    def _is_short(self, calls: list[tuple[Request, Tensor]]) -> bool:
        """Whether calls are ranked on the loop rather than merged and handed to a thread.

        Among negatives, merging saves next to nothing, for each query has its own. All items are
        read once for many queries, so these calls had better meet.
        """
        return self._short_work(calls) is not None

    def _short_work(self, calls: list[tuple[Request, Tensor]]) -> int | None:
        """Multiplications of short calls, see `_is_short`; None if they are not short."""
        work = 0
        for request, query in calls:
            items, candidates = self._items[request.dataset], request.candidates
            if not items.is_local or (candidates is None and items.num_rows > _SHORT_CATALOG):
                return None
            pairs = len(query) * items.num_rows if candidates is None else len(candidates.values)
            work += pairs * query.shape[1]
        return work if work <= _SHORT_WORK else None

    def _rank(self, calls: list[tuple[Request, Tensor]]) -> list[Answer]:
        work = self._short_work(calls)
        if work is None:
            torch.set_num_threads(self._threads)  # of this thread, which began with any number
            return self._rank_together(calls)
        with use_threads(1 if work < _THREAD_WORK else min(self._threads, free_processors())):
            return self._rank_together(calls)

    def _rank_together(self, calls: list[tuple[Request, Tensor]]) -> list[Answer]:
        query = calls[0][1] if len(calls) == 1 else torch.cat([query for _, query in calls])
        return answer_together(self._items, [request for request, _ in calls], query)
