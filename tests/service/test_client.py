"""The client of a service on a real Ray, against the service in this process."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from rl4rec_kernels import RecReward, find_service
from rl4rec_kernels.service import RetrievalClient, ServiceUnavailableError
from tests.errors import raises
from tests.forked import in_child
from tests.service.cases import is_same, make_calls


def test_answers_equal_those_of_the_local_service(client, local):
    for call in make_calls(8, seed=3):
        want = getattr(local, call.method)(*call.arguments)
        assert is_same(getattr(client, call.method)(*call.arguments), want)
        assert is_same(asyncio.run(getattr(client, f"{call.method}_async")(*call.arguments)), want)
    everything = client.calculate_reward(["soap", "a red lipstick"], "toys")
    assert everything.shape == (2, 505)
    assert is_same(everything, local.calculate_reward(["soap", "a red lipstick"], "toys"))
    everything[0, 0] = 1.0  # the caller may write to it
    for call in (client.rank_with_log_prob, local.rank_with_log_prob):
        with raises(ValueError, "temperature", "more than", 0):
            call(["soap"], "toys", [1], temperature=0)


def test_rewards_equal_those_of_the_local_service(client, local):
    arguments = (["<query>soap</query>", "perfume"], [5, 6], [[1], [2]], [[7, 8, 9], [10]])
    on_ray = RecReward("OnRay", "tests", "toys", "mrr")
    assert pickle.loads(pickle.dumps(on_ray))(*arguments) == on_ray(*arguments)
    assert on_ray(*arguments) == RecReward(service=local, dataset_name="toys", reward_type="mrr")(
        *arguments
    )
    assert find_service("OnRay", "tests") is client


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((["a"], "books", [1]), ValueError, ("unknown data set", "'books'", "'toys'")),
        (([], "toys", []), ValueError, ("texts", "empty")),
        ((["\ud800"], "toys", [1]), ValueError, ("texts[0]", "Unicode")),
        ((["x" * 2**20], "toys", [1]), ValueError, ("texts[0]", "1,048,576")),
        ((["a"], "toys", [1, 2]), ValueError, ("targets", 1, "(2,)")),
        ((["a"], "toys", [9999]), IndexError, ("targets", "item 9999", "not in the index")),
        ((["a"], "toys", [1], [[0]]), IndexError, ("neg_items", "0 ")),
    ],
)
def test_errors_reach_the_caller_without_rays_wrapping(client, arguments, error, named):
    for call in (client.rank, lambda *a: asyncio.run(client.rank_async(*a))):
        with raises(error, *named) as caught:
            call(*arguments)
        assert str(caught.value).startswith(named[0])


def test_64_callers_survive_a_killed_actor(client, local):
    """Threads and coroutines; calls in flight when the actor is killed are sent again."""
    calls = [make_calls(4, seed=100 + caller, texts=1) for caller in range(64)]
    wants = [[getattr(local, c.method)(*c.arguments) for c in mine] for mine in calls]
    answers: list[list] = [[] for _ in calls]
    half = threading.Semaphore(0)
    first_pid = client.describe()[0]["pid"]
    copies = [pickle.loads(pickle.dumps(client)) for _ in range(4)]

    def call(caller: int) -> None:
        for c in calls[caller]:
            answers[caller].append(getattr(copies[caller % 4], c.method)(*c.arguments))
            half.release()

    async def call_async(caller: int) -> None:
        for c in calls[caller]:
            method = getattr(copies[caller % 4], f"{c.method}_async")
            answers[caller].append(await method(*c.arguments))
            half.release()

    async def call_all() -> None:
        await asyncio.gather(*(call_async(caller) for caller in range(32, 64)))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(32)]
    threads.append(threading.Thread(target=lambda: asyncio.run(call_all())))
    for thread in threads:
        thread.start()
    for _ in range(64):
        assert half.acquire(timeout=60)
    os.kill(first_pid, signal.SIGKILL)

    impatient = RetrievalClient("OnRay", "tests", reconnect_s=0.3)
    with raises(ServiceUnavailableError, "'OnRay'", "'tests'", "died"):
        impatient.rank(["soap"], "toys", [1])
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    for got, want in zip(answers, wants, strict=True):
        assert len(got) == len(want) == 4
        assert all(is_same(*pair) for pair in zip(got, want, strict=True))
    assert client.describe()[0]["pid"] != first_pid


@pytest.mark.parametrize("name", ["timeout_s", "reconnect_s"])
def test_invalid_timeouts_are_named(client, name):
    with raises(ValueError, name, 0):
        RetrievalClient("OnRay", "tests", **{name: 0})


def test_an_unknown_service_is_an_error_at_once(client):
    start = time.monotonic()
    with raises(
        LookupError, "'none'", "'tests'", "ray start --head", "rl4rec serve", "RAY_ADDRESS"
    ):
        find_service("none", "tests")
    assert time.monotonic() - start < 10


AT_ONCE = """
import threading, rl4rec_kernels as rk
start, found, errors = threading.Barrier(64), [], []

def find():
    start.wait()
    try:
        found.append(rk.find_service("OnRay", "tests"))
        found[-1].rank(["soap"], "toys", [1])
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=find) for _ in range(64)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), len(set(found)), errors)
"""


def test_64_threads_connect_at_once(client):
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], capture_output=True, text=True, check=False
    )
    assert done.stdout == "64 1 []\n", done.stdout + done.stderr


def test_a_forked_child_of_a_connected_process(client, local):
    """It has the parent's connection, which nobody answers there."""
    asked = (["soap"], "toys", [1])

    def rewards_of(name: str) -> list[float]:
        return RecReward(name, "tests", "toys")(["soap"], [1], [[]])

    for work in (
        lambda: client.rank(*asked),
        lambda: asyncio.run(client.rank_async(*asked)),
        lambda: client.describe(),
        lambda: find_service("OnRay", "tests"),
        lambda: rewards_of("OnRay"),
        lambda: in_child(lambda: client.rank(*asked)),
    ):
        with raises(LookupError, "forked", "Ray", "spawn"):
            in_child(work)
    local.register("beside Ray", "tests")
    assert in_child(lambda: rewards_of("beside Ray")) == rewards_of("OnRay")
