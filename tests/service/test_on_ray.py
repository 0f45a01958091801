"""The service on a real Ray, against the service of this process."""

import asyncio
import os
import pickle
import signal
import threading
import time

import pytest

from rl4rec_kernels import RecReward, RecRewardFrunction, RetrievalService, find_service
from rl4rec_kernels.service import RetrievalClient, ServiceUnavailableError, start_service
from tests.service.cases import is_same, make_calls
from tests.test_guide import REWARD


def test_answers_are_those_of_the_local_service(client, local):
    for call in make_calls(8, seed=3):
        want = getattr(local, call.method)(*call.arguments)
        assert is_same(getattr(client, call.method)(*call.arguments), want)
        assert is_same(asyncio.run(getattr(client, f"{call.method}_async")(*call.arguments)), want)
    everything = client.calculate_reward(["soap", "a red lipstick"], "toys")
    assert everything.shape == (2, 505)
    assert is_same(everything, local.calculate_reward(["soap", "a red lipstick"], "toys"))
    everything[0, 0] = 1.0  # it is the caller's to write to


def test_the_actor_may_be_called_directly(ray, client, local):
    actor = ray.get_actor("OnRay", namespace="tests")
    arguments = {"dataset_name": "toys", "targets": [5, 6], "neg_items": [[1, 2, 3], [9]]}
    scores = ray.get(actor.calculate_reward.remote(["soap", "perfume"], **arguments))
    assert is_same(scores, local.calculate_reward(["soap", "perfume"], **arguments))
    counts = ray.get(actor.rank.remote(["soap", "perfume"], **arguments))
    assert is_same(counts, local.rank(["soap", "perfume"], **arguments))


def test_the_guide_runs(client, capsys):
    """The guide's names are the defaults, which another test's service must not take."""
    snippet = REWARD.replace('"RetrievalService"', '"OnRay"').replace('"rl4rec"', '"tests"')
    names: dict = {"RecRewardFrunction": RecRewardFrunction}
    exec(snippet, names)
    assert 0 < names["rewards"][0] <= 1
    assert "Reward: [" in capsys.readouterr().out


def test_rewards_are_those_of_the_local_service(client, local):
    arguments = (["<query>soap</query>", "perfume"], [5, 6], [[1], [2]], [[7, 8, 9], [10]])
    on_ray = RecReward("OnRay", "tests", "toys", "mrr")
    assert pickle.loads(pickle.dumps(on_ray))(*arguments) == on_ray(*arguments)
    assert on_ray(*arguments) == RecReward(service=local, dataset_name="toys", reward_type="mrr")(
        *arguments
    )
    assert find_service("OnRay", "tests") is client


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((["a"], "books", [1]), ValueError, "^unknown data set 'books'; this service has 'toys'"),
        (([], "toys", []), ValueError, "^texts is empty"),
        ((["\ud800"], "toys", [1]), ValueError, r"^texts\[0\] is no valid Unicode"),
        ((["x" * 2**20], "toys", [1]), ValueError, r"^texts\[0\] has 1,048,576 characters"),
        ((["a"], "toys", [1, 2]), ValueError, "^targets must have one id for each of the 1"),
        ((["a"], "toys", [9999]), IndexError, "^targets: item 9999 is not in the index"),
        ((["a"], "toys", [1], [[0]]), IndexError, "^neg_items: 0 is not an item"),
    ],
)
def test_errors_reach_the_caller_as_they_are(client, arguments, error, words):
    with pytest.raises(error, match=words):
        client.rank(*arguments)
    with pytest.raises(error, match=words):
        asyncio.run(client.rank_async(*arguments))


def test_64_callers_through_a_kill(client, local):
    """Threads and coroutines; whoever was being answered when the actor died asks again."""
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
    with pytest.raises(ServiceUnavailableError, match="'OnRay' in namespace 'tests' died and did"):
        impatient.rank(["soap"], "toys", [1])
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    for got, want in zip(answers, wants, strict=True):
        assert len(got) == len(want) == 4
        assert all(is_same(*pair) for pair in zip(got, want, strict=True))
    assert client.describe()[0]["pid"] != first_pid


def test_a_service_that_cannot_start_says_why(ray):
    with pytest.raises(ServiceUnavailableError, match=r"could not be started(.|\n)*/nowhere"):
        start_service({"toys": "/nowhere.safetensors"}, name="broken", namespace="tests")


def test_a_service_is_not_silently_another_one(client, index_file):
    with pytest.raises(ValueError, match="'OnRay' in namespace 'tests' runs already"):
        start_service({"books": str(index_file)}, name="OnRay", namespace="tests")


def test_bad_arguments_are_named(ray, index_file):
    with pytest.raises(TypeError, match="RetrievalService is a Ray actor"):
        RetrievalService("beauty")
    with pytest.raises(ValueError, match="replicas must be at least 1, got 0"):
        start_service("toys", replicas=0)
    with pytest.raises(ValueError, match="with shards, datasets must be a dict of index files"):
        start_service("toys", shards=2)
    with pytest.raises(ValueError, match="timeout_s must be a positive number"):
        RetrievalClient("OnRay", "tests", timeout_s=0)
    start = time.monotonic()
    with pytest.raises(LookupError, match="no retrieval service 'none' in namespace 'tests'"):
        find_service("none", "tests")
    assert time.monotonic() - start < 10
