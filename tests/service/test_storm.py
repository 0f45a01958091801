"""Good and bad callers of a service at once, as in ``make soak``, but without Ray and kills."""

import asyncio
import os
import threading
import time
from functools import partial

import pytest

from rl4rec_kernels import LocalRetrievalService
from rl4rec_kernels.adapters.http import RewardEndpoint
from rl4rec_kernels.service.base import RetrievalBackend
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.local import encode_finite
from tests.service import storm as storms

SECONDS = 5.0


class Client(RetrievalBackend):
    """Calls a batching service on its own loop, from any thread."""

    def __init__(self, service: BatchingService) -> None:
        self.service, self.loop = service, asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def answer(self, call):
        return asyncio.run_coroutine_threadsafe(self.service.answer_async(call), self.loop).result()


@pytest.fixture
def endpoint(local, encoder):
    """The HTTP endpoint of another local service, without Ray Serve."""
    uvicorn, requests = pytest.importorskip("uvicorn"), pytest.importorskip("starlette.requests")
    LocalRetrievalService({"toys": local.items["toys"]._index}, encoder).register("storm", "tests")
    reward = {"retrieval_service_name": "storm", "namespace": "tests", "dataset_name": "toys"}
    limits = {"read_timeout_s": storms.READ_TIMEOUT_S}
    answer = RewardEndpoint({**reward, "reward_type": "logrank"}, storms.TOKEN, limits=limits)

    async def app(scope, receive, send):
        response = await answer(requests.Request(scope, receive))
        await response(scope, receive, send)

    config = uvicorn.Config(
        app,
        port=storms.PORT,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield
    server.should_exit = True
    thread.join(30)


def test_good_answers_are_right_while_others_do_harm(endpoint, local, encoder):
    service = BatchingService(local.items, partial(encode_finite, encoder), Limits(cache_mib=1))
    storm = storms.Storm(Client(service), local)
    storm.end = time.monotonic() + SECONDS
    callers = storm.callers()
    assert len(callers) == 64
    before = descriptors()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not storm.wrong, storm.wrong[0]
    assert set(storm.found) == storms.KINDS
    assert service.load()["inflight_texts"] == service.load()["queued_calls"] == 0
    assert service._memory.used == 0
    end = time.monotonic() + storms.READ_TIMEOUT_S + 10  # requests that nobody completes
    while descriptors() > before + 5:
        assert time.monotonic() < end, (before, descriptors())
        time.sleep(0.1)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
