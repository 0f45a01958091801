"""The batcher and the admission queue, with plain functions as work and without Ray."""

import asyncio
import random
import threading
import time

from rl4rec_kernels.service.batcher import AdmissionQueue, Batcher, ServiceOverloadedError
from tests.errors import raises


def squares(batches: list, seconds: float = 0.0):
    """Work that records its batches and fails for negative numbers."""

    def work(items: list) -> list:
        batches.append(list(items))
        time.sleep(seconds)
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {items}")
        return [item * item for item in items]

    return work


def test_items_are_batched_and_get_their_own_results():
    batches: list = []

    async def main() -> None:
        batcher = Batcher(squares(batches, 0.01), max_batch_size=8, batch_wait_timeout_s=0.02)
        results = await asyncio.gather(*(batcher.submit(i) for i in range(30)))
        assert results == [i * i for i in range(30)]

    asyncio.run(main())
    assert batches == [list(range(8)), list(range(8, 16)), list(range(16, 24)), list(range(24, 30))]


def test_an_item_waits_for_others_until_the_timeout():
    batches: list = []

    async def main() -> None:
        batcher = Batcher(squares(batches), max_batch_size=8, batch_wait_timeout_s=0.2)
        first = batcher.submit(1)
        await asyncio.sleep(0.02)
        assert await asyncio.gather(first, batcher.submit(2)) == [1, 4]
        assert await batcher.submit(3) == 9

    asyncio.run(main())
    assert batches == [[1, 2], [3]]


def test_a_full_batch_does_not_wait():
    async def main() -> None:
        batcher = Batcher(squares([]), max_batch_size=2, batch_wait_timeout_s=3600)
        assert await asyncio.wait_for(
            asyncio.gather(batcher.submit(1), batcher.submit(2), batcher.submit(5, size=9)), 60
        ) == [1, 4, 25]

    asyncio.run(main())


def test_a_bad_item_fails_only_for_its_caller():
    batches: list = []

    async def main() -> None:
        batcher = Batcher(squares(batches), max_batch_size=8, batch_wait_timeout_s=0.01)
        results = await asyncio.gather(
            *(batcher.submit(i) for i in (1, -2, 3)), return_exceptions=True
        )
        assert (results[0], results[2]) == (1, 9)
        assert str(results[1]) == "negative: [-2]"
        assert await batcher.submit(4) == 16

    asyncio.run(main())


def test_a_cancelled_item_is_left_out_of_its_batch():
    batches: list = []

    async def main() -> None:
        batcher = Batcher(squares(batches), max_batch_size=8, batch_wait_timeout_s=0.05)
        futures = [batcher.submit(i) for i in range(3)]
        futures[1].cancel()
        assert await asyncio.gather(futures[0], futures[2]) == [0, 4]

    asyncio.run(main())
    assert batches == [[0, 2]]


def test_a_wrong_number_of_results_is_an_error():
    async def main() -> None:
        batcher = Batcher(lambda items: [], max_batch_size=8)
        with raises(RuntimeError, "0 results", "1 items"):
            await batcher.submit(1)

    asyncio.run(main())


def test_work_runs_in_a_thread_unless_it_is_short():
    async def main() -> None:
        batcher = Batcher(lambda items: [threading.get_ident()], max_batch_size=1)
        assert await batcher.submit(1) != threading.get_ident()
        here = Batcher(lambda items: [threading.get_ident()], max_batch_size=1, is_short=bool)
        assert await here.submit(1) == threading.get_ident()

    asyncio.run(main())


def test_the_admission_queue_keeps_its_capacity_and_loses_no_call():
    async def main() -> None:
        queue = AdmissionQueue(10, queue_timeout_s=60)
        inside, most, answered = 0, 0, []
        random.seed(0)

        async def call(number: int, size: int) -> None:
            nonlocal inside, most
            await queue.acquire(size)
            inside += min(size, 10)
            most = max(most, inside)
            await asyncio.sleep(random.random() / 1000)
            inside -= min(size, 10)
            answered.append(number)
            queue.release(size)

        await asyncio.gather(*(call(i, random.randint(1, 13)) for i in range(200)))
        assert sorted(answered) == list(range(200))
        assert most == 10
        assert (queue.used, queue.waiting) == (0, 0)

    asyncio.run(main())


def test_a_call_is_admitted_in_its_turn_or_times_out():
    async def main() -> None:
        queue = AdmissionQueue(4, queue_timeout_s=0.05)
        await queue.acquire(4)
        with raises(ServiceOverloadedError, "2 texts", "0.05 s", "4 of 4"):
            await queue.acquire(2)
        waiting = asyncio.create_task(queue.acquire(3))
        gone = asyncio.create_task(queue.acquire(1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        queue.release(4)
        await waiting
        assert (queue.used, queue.waiting) == (3, 0)
        queue.release(3)
        assert queue.used == 0

    asyncio.run(main())
