"""Batching and admission of small calls on an asyncio loop, without Ray."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rl4rec_kernels._utils.forking import fork_safe_pool, renew_in_child

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServiceOverloadedError(RuntimeError):
    """A call waited in the service's queue for too long, or the service has no memory for it."""


@dataclass(slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    size: int
    since: float
    future: "asyncio.Future[Result]"


class Batcher(Generic[Item, Result]):
    """Collects items and processes them in batches, one batch at a time, in its own thread.

    While a batch is processed, the next one collects. When nothing is being processed, the first
    item waits for others up to `batch_wait_timeout_s`, or until the batch is full.

    Parameters
    ----------
    work : callable
        Takes a list of items, returns a list of as many results. If it raises for several items,
        it is called with each item alone, so that a bad item fails only for its caller.
    max_batch_size : int
        Total size of the items of a batch; a larger item is processed alone.
    batch_wait_timeout_s : float
        Seconds that an item waits for others.
    name : str
        Name of the thread.
    is_short : callable, optional
        Whether a list of items is processed right away on the loop, without waiting for others,
        because handing it to the thread and back would take longer.

    Attributes
    ----------
    batches, items : int
        Batches and items processed so far.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch_size: int,
        batch_wait_timeout_s: float = 0.0,
        name: str = "batcher",
        is_short: Callable[[list[Item]], bool] = lambda items: False,
    ) -> None:
        self._work, self._is_short = work, is_short
        self._max_size, self._wait_s = max_batch_size, batch_wait_timeout_s
        self._thread = fork_safe_pool(1, name)
        self.batches = self.items = 0
        renew_in_child(self, Batcher._start)
        self._start()

    def _start(self) -> None:
        """Start without items; a forked child leaves those of its parent to the parent."""
        self._entries: deque[_Entry[Item, Result]] = deque()
        self._size = 0
        self._full = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None  # kept: the loop holds tasks weakly

    def submit(self, item: Item, size: int = 1) -> "asyncio.Future[Result]":
        """Queue an item; the future gets its result or its error.

        An item whose future is cancelled before its batch starts is left out.
        """
        future = asyncio.get_running_loop().create_future()
        if self._runner is None and self._is_short([item]):
            self._count(1)
            try:
                future.set_result(self._work([item])[0])
            except Exception as error:
                future.set_exception(error)
            return future
        self._entries.append(_Entry(item, size, time.monotonic(), future))
        self._size += size
        if self._size >= self._max_size:
            self._full.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        try:
            while self._entries:
                await self._wait_for_others()
                if batch := self._take():
                    await self._finish(batch)
        finally:
            self._runner = None

    async def _wait_for_others(self) -> None:
        left = self._entries[0].since + self._wait_s - time.monotonic()
        if left > 0 and self._size < self._max_size:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), left)

    def _take(self) -> list[_Entry[Item, Result]]:
        batch: list[_Entry[Item, Result]] = []
        size = 0
        while self._entries and (not batch or size + self._entries[0].size <= self._max_size):
            entry = self._entries.popleft()
            self._size -= entry.size
            if not entry.future.cancelled():
                batch.append(entry)
                size += entry.size
        return batch

    async def _finish(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._process([entry.item for entry in batch])
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    await self._finish([entry])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(result)

    async def _process(self, items: list[Item]) -> Sequence[Result]:
        self._count(len(items))
        if self._is_short(items):
            results = self._work(items)
        else:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, self._work, items)
        if len(results) != len(items):
            raise RuntimeError(f"work returned {len(results)} results for {len(items)} items")
        return results

    def _count(self, items: int) -> None:
        self.batches += 1
        self.items += items


class MemoryBudget:
    """Bounds the memory of all calls that a service holds, those that wait in a queue included.

    Parameters
    ----------
    max_mib : int
        The bound, in MiB; errors call it ``max_held_mib``.
    """

    def __init__(self, max_mib: int) -> None:
        self.max_mib, self.used = max_mib, 0
        renew_in_child(self, lambda budget: setattr(budget, "used", 0))

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes for the block.

        Raises
        ------
        ValueError
            If they are more than the bound.
        ServiceOverloadedError
            If other calls hold too much at the moment. A call cannot wait here, since it would take
            memory; its caller should, as `RetrievalClient` does.
        """
        need = f"about {size / 2**20:,.1f} MiB"
        if size > self.max_mib << 20:
            raise ValueError(
                f"the call takes {need} with its answer, more than max_held_mib={self.max_mib:,}; "
                "send fewer texts at once"
            )
        if self.used + size > self.max_mib << 20:
            raise ServiceOverloadedError(
                f"no memory for a call that takes {need} with its answer: "
                f"{self.used / 2**20:,.1f} MiB of max_held_mib={self.max_mib:,} are in use; send "
                "fewer texts at once, or add replicas"
            )
        self.used += size
        try:
            yield
        finally:
            self.used -= size


class AdmissionQueue:
    """Admits calls up to a total size; further calls wait in the queue, first come, first served.

    Parameters
    ----------
    capacity : int
        Total size of the admitted calls. A larger call is admitted when it is the only one.
    queue_timeout_s : float
        Seconds that a call waits in the queue.
    """

    def __init__(self, capacity: int, queue_timeout_s: float) -> None:
        self.capacity, self.queue_timeout_s = capacity, queue_timeout_s
        renew_in_child(self, AdmissionQueue._start)
        self._start()

    def _start(self) -> None:
        self.used = 0
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    async def acquire(self, size: int) -> None:
        """Wait until there is room for a call, and take it; `release` must follow.

        Raises
        ------
        ServiceOverloadedError
            If there was not enough room for `queue_timeout_s`.
        """
        size = min(size, self.capacity)
        if not self._queue and self.used + size <= self.capacity:
            self.used += size
            return
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append((admitted, size))
        try:
            await asyncio.wait_for(admitted, self.queue_timeout_s)
        except (asyncio.CancelledError, TimeoutError) as error:
            if admitted.done() and not admitted.cancelled():
                self.release(size)  # it was admitted at this very moment
            else:
                self._queue = deque(entry for entry in self._queue if entry[0] is not admitted)
                self._admit()  # it may have kept others waiting
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ServiceOverloadedError(
                f"no room for a call of {size} texts within {self.queue_timeout_s:g} s: "
                f"{self.used} of {self.capacity} texts are in flight and {self.waiting} calls are "
                "queued; send fewer texts at once, or add replicas"
            ) from None

    def release(self, size: int) -> None:
        """Give back the room of a call."""
        self.used -= min(size, self.capacity)
        self._admit()

    def _admit(self) -> None:
        while self._queue and self.used + self._queue[0][1] <= self.capacity:
            admitted, size = self._queue.popleft()
            if not admitted.done():
                self.used += size
                admitted.set_result(None)
