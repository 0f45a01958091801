"""Starting services, one of them with narrow limits from a process that has ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from rl4rec_kernels.service import RetrievalClient, ServiceUnavailableError, start_service
from tests.errors import raises
from tests.service.cases import is_same

START = """
import sys
import rl4rec_kernels as rk
index = rk.ItemIndex.open(sys.argv[1])
rk.start_service({"toys": index}, name="Narrow", namespace="tests",
                 limits={"max_inflight_texts": 1, "queue_timeout_s": 0.02})
"""


@pytest.fixture(scope="module")
def narrow(ray, index_file):
    subprocess.run([sys.executable, "-c", START, str(index_file)], check=True)
    return RetrievalClient("Narrow", "tests")


def test_refused_calls_are_sent_again_until_there_is_room(narrow, local):
    calls = [([f"soap number {i}"], "toys", [1 + i], [[40, 50, 60 + i]]) for i in range(24)]

    async def main() -> list:
        return await asyncio.gather(*(narrow.rank_async(*call) for call in calls))

    for call, answer in zip(calls, asyncio.run(main()), strict=True):
        assert is_same(answer, local.rank(*call))
    load = narrow.describe()[0]["load"]
    assert load["errors"] > 0
    assert load["calls"] == 24 + load["errors"]
    assert load["encoded_texts"] == 24
    assert load["inflight_texts"] == load["queued_calls"] == 0


def test_objects_are_lost_with_the_process_that_passed_them(narrow):
    os.kill(narrow.describe()[0]["pid"], signal.SIGKILL)
    with raises(ServiceUnavailableError, "'Narrow'", "pass names or paths"):
        narrow.rank(["soap"], "toys", [1])


def test_a_service_that_cannot_start_says_why(ray):
    with raises(ServiceUnavailableError, "could not be started", "/nowhere"):
        start_service({"toys": "/nowhere.safetensors"}, name="broken", namespace="tests")


def test_a_running_service_must_have_the_same_data_sets(client, index_file):
    with raises(ValueError, "'OnRay'", "'tests'", "books"):
        start_service({"books": str(index_file)}, name="OnRay", namespace="tests")


def test_invalid_arguments_are_named(ray):
    with raises(ValueError, "replicas", 0):
        start_service("toys", replicas=0)
    with raises(ValueError, "shards", "datasets", "'toys'"):
        start_service("toys", shards=2)


def is_free(name: str) -> bool:
    """Whether no actor has the name: what was started is stopped."""
    try:
        RetrievalClient(name, "tests")
    except LookupError:
        return True
    return False


@pytest.mark.parametrize(("option", "value"), [("num_cpus", 10**9), ("num_gpus", 99)])
def test_more_than_the_cluster_has_is_refused_at_once(ray, index_file, option, value):
    start = time.monotonic()
    with raises(ValueError, option, value):
        start_service({"toys": str(index_file)}, name="large", namespace="tests", **{option: value})
    assert time.monotonic() - start < 10
    assert is_free("large")


def test_an_error_of_the_actor_has_its_own_type(ray, index_file):
    encoder = {"model": "minilm", "max_length": 10**6}
    with raises(ValueError, "max_length", 512, 10**6) as caught:
        start_service({"toys": str(index_file)}, encoder, name="long", namespace="tests")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert is_free("long")


def test_a_service_that_is_not_up_in_time_is_stopped(ray, index_file):
    with raises(TimeoutError, "'late'", "0.01 s"):
        start_service({"toys": str(index_file)}, name="late", namespace="tests", timeout_s=0.01)
    assert is_free("late")
