"""Merging of calls, by itself: plain functions as work, no Ray."""

import asyncio
import random
import threading
import time

import pytest

from rl4rec_kernels.service.batcher import AdmissionQueue, Batcher, ServiceOverloadedError


def squares(batches: list, seconds: float = 0.0):
    """Work that records its batches and fails for negative numbers."""

    def work(items: list) -> list:
        batches.append(list(items))
        time.sleep(seconds)
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {items}")
        return [item * item for item in items]

    return work


def test_items_meet_in_batches_and_get_their_own_results():
    batches: list = []

    async def main() -> None:
        merger = Batcher(squares(batches, 0.01), max_size=8, max_wait_s=0.02)
        results = await asyncio.gather(*(merger.submit(i) for i in range(30)))
        assert results == [i * i for i in range(30)]
        merger.close()

    asyncio.run(main())
    assert batches == [list(range(8)), list(range(8, 16)), list(range(16, 24)), list(range(24, 30))]


def test_an_item_waits_for_others_no_longer_than_said():
    batches: list = []

    async def main() -> None:
        merger = Batcher(squares(batches), max_size=8, max_wait_s=0.2)
        first = merger.submit(1)
        await asyncio.sleep(0.02)
        assert await asyncio.gather(first, merger.submit(2)) == [1, 4]
        assert await merger.submit(3) == 9

    asyncio.run(main())
    assert batches == [[1, 2], [3]]


def test_a_full_batch_does_not_wait():
    async def main() -> None:
        merger = Batcher(squares([]), max_size=2, max_wait_s=3600)
        assert await asyncio.wait_for(
            asyncio.gather(merger.submit(1), merger.submit(2), merger.submit(5, size=9)), 60
        ) == [1, 4, 25]

    asyncio.run(main())


def test_an_error_is_its_items_alone():
    batches: list = []

    async def main() -> None:
        merger = Batcher(squares(batches), max_size=8, max_wait_s=0.01)
        results = await asyncio.gather(
            *(merger.submit(i) for i in (1, -2, 3)), return_exceptions=True
        )
        assert (results[0], results[2]) == (1, 9)
        assert str(results[1]) == "negative: [-2]"
        assert await merger.submit(4) == 16

    asyncio.run(main())


def test_a_cancelled_item_is_left_out_and_harms_nobody():
    batches: list = []

    async def main() -> None:
        merger = Batcher(squares(batches), max_size=8, max_wait_s=0.05)
        futures = [merger.submit(i) for i in range(3)]
        futures[1].cancel()
        assert await asyncio.gather(futures[0], futures[2]) == [0, 4]

    asyncio.run(main())
    assert batches == [[0, 2]]


def test_work_of_the_wrong_length_is_an_error_not_a_mix_up():
    async def main() -> None:
        merger = Batcher(lambda items: [], max_size=8)
        with pytest.raises(RuntimeError, match="1 items were worked on, 0 results came"):
            await merger.submit(1)

    asyncio.run(main())


def test_the_loop_runs_on_while_work_is_done():
    async def main() -> None:
        merger = Batcher(lambda items: [threading.get_ident()], max_size=1)
        assert await merger.submit(1) != threading.get_ident()
        here = Batcher(lambda items: [threading.get_ident()], max_size=1, is_short=bool)
        assert await here.submit(1) == threading.get_ident()

    asyncio.run(main())


def test_the_gate_bounds_what_is_inside_and_loses_nobody():
    async def main() -> None:
        gate = AdmissionQueue(10, max_wait_s=60)
        inside, most, served = 0, 0, []
        random.seed(0)

        async def call(number: int, size: int) -> None:
            nonlocal inside, most
            await gate.enter(size)
            inside += min(size, 10)
            most = max(most, inside)
            await asyncio.sleep(random.random() / 1000)
            inside -= min(size, 10)
            served.append(number)
            gate.leave(size)

        await asyncio.gather(*(call(i, random.randint(1, 13)) for i in range(200)))
        assert sorted(served) == list(range(200))
        assert most == 10
        assert (gate.used, gate.waiting) == (0, 0)

    asyncio.run(main())


def test_a_call_gets_in_in_its_turn_or_an_error():
    async def main() -> None:
        gate = AdmissionQueue(4, max_wait_s=0.05)
        await gate.enter(4)
        with pytest.raises(ServiceOverloadedError, match=r"no room for a call of 2 texts within"):
            await gate.enter(2)
        waiting = asyncio.create_task(gate.enter(3))
        gone = asyncio.create_task(gate.enter(1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        gate.leave(4)
        await waiting
        assert (gate.used, gate.waiting) == (3, 0)
        gate.leave(3)
        assert gate.used == 0

    asyncio.run(main())
