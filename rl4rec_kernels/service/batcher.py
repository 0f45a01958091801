"""Many small calls made into few large ones, on an asyncio loop; knows nothing of Ray."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServiceOverloadedError(RuntimeError):
    """The service has had no room for a call for as long as it lets calls wait."""


@dataclass(slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    size: int
    since: float
    future: "asyncio.Future[Result]"


class Batcher(Generic[Item, Result]):
    """Collects items and works on them in batches, one batch at a time, in a thread of its own.

    While a batch is worked on, the items of the next one collect. When nothing is worked on, the
    first item waits up to `max_wait_s` for company, unless `max_size` is reached before.

    Parameters
    ----------
    work : callable
        Takes a list of items, returns a list of as many results. If it raises for several items,
        it is called with each alone, so that only those fail that fail by themselves.
    max_size : int
        The size of a batch; an item that is larger makes a batch of its own.
    max_wait_s : float
        Seconds that an item waits for others.
    name : str
        Of the thread.
    is_short : callable, optional
        Tells of a list of items whether they are worked on right away, on the loop, because that
        takes less time than to hand them to a thread and back. Such an item waits for no others.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        *,
        max_size: int,
        max_wait_s: float = 0.0,
        name: str = "batcher",
        is_short: Callable[[list[Item]], bool] = lambda items: False,
    ) -> None:
        self._work, self._is_short = work, is_short
        self._max_size, self._max_wait_s = max_size, max_wait_s
        self._entries: deque[_Entry[Item, Result]] = deque()
        self._size = 0
        self._full = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None  # kept: the loop holds tasks weakly
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.batches = self.items = 0  # worked on so far

    def submit(self, item: Item, size: int = 1) -> "asyncio.Future[Result]":
        """Queue an item; the future gets its result, or the error of working on it.

        An item whose future is cancelled before its batch begins is left out.
        """
        future = asyncio.get_running_loop().create_future()
        if self._runner is None and self._is_short([item]):
            return self._do_now(item, future)
        self._entries.append(_Entry(item, size, time.monotonic(), future))
        self._size += size
        if self._size >= self._max_size:
            self._full.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    def close(self) -> None:
        """End the thread; what is worked on is finished."""
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        try:
            while self._entries:
                await self._wait_for_company()
                if batch := self._take():
                    await self._finish(batch)
        finally:
            self._runner = None

    async def _wait_for_company(self) -> None:
        left = self._entries[0].since + self._max_wait_s - time.monotonic()
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
            if not entry.future.cancelled():  # nobody waits for it any more
                batch.append(entry)
                size += entry.size
        return batch

    async def _finish(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._do(batch)
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

    def _do_now(self, item: Item, future: "asyncio.Future[Result]") -> "asyncio.Future[Result]":
        self.batches += 1
        self.items += 1
        try:
            future.set_result(self._work([item])[0])
        except Exception as error:
            future.set_exception(error)
        return future

    async def _do(self, batch: list[_Entry[Item, Result]]) -> Sequence[Result]:
        self.batches += 1
        self.items += len(batch)
        items = [entry.item for entry in batch]
        if self._is_short(items):
            results = self._work(items)
        else:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, self._work, items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items were worked on, {len(results)} results came")
        return results


class AdmissionQueue:
    """Lets in calls up to a total size; others stand in line, in order.

    Parameters
    ----------
    capacity : int
        Total size of the calls that are in. A larger call gets in when it is alone.
    max_wait_s : float
        Seconds that a call stands in line.
    """

    def __init__(self, capacity: int, max_wait_s: float) -> None:
        self.capacity, self.max_wait_s = capacity, max_wait_s
        self.used = 0
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that stand in line."""
        return len(self._line)

    async def enter(self, size: int) -> None:
        """Wait for room, and take it; `leave` must follow.

        Raises
        ------
        ServiceOverloadedError
            If there has been none for `max_wait_s`.
        """
        size = min(size, self.capacity)
        if not self._line and self.used + size <= self.capacity:
            self.used += size
            return
        place = asyncio.get_running_loop().create_future()
        self._line.append((place, size))
        try:
            await asyncio.wait_for(place, self.max_wait_s)
        except (asyncio.CancelledError, TimeoutError) as error:
            if place.done() and not place.cancelled():
                self.leave(size)  # it was let in at this very moment
            else:
                self._line = deque(entry for entry in self._line if entry[0] is not place)
                self._admit()  # it may have kept others from getting in
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ServiceOverloadedError(
                f"no room for a call of {size} texts within {self.max_wait_s:g} s: "
                f"{self.used} of {self.capacity} are being worked on and {self.waiting} calls "
                "wait; send less at once, or add replicas"
            ) from None

    def leave(self, size: int) -> None:
        """Give room back."""
        self.used -= min(size, self.capacity)
        self._admit()

    def _admit(self) -> None:
        while self._line and self.used + self._line[0][1] <= self.capacity:
            place, size = self._line.popleft()
            if not place.done():
                self.used += size
                place.set_result(None)
