"""A forked child computes what its parent does, though only the forking thread survives."""

import asyncio
import threading
import types
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels._utils import forking
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.items import LocalItems
from tests.forked import in_child
from tests.service.cases import METADATA, make_calls

QUERY, TABLE = torch.randn(2, 64, 384), torch.randn(20_000, 384)
IDS = torch.randint(1, 20_000, (64, 500))


def plain(result: Any) -> Any:
    """Tensors as lists: a tensor cannot be sent by a child that ends."""
    if isinstance(result, torch.Tensor):
        return result.tolist()
    return [plain(part) for part in result] if isinstance(result, tuple) else result


def gradient() -> torch.Tensor:
    query = QUERY[0].clone().requires_grad_()
    rk.score_candidates(query, TABLE, IDS).sum().backward()
    return query.grad


WORK = {
    "score_candidates": lambda: rk.score_candidates(QUERY[0], TABLE, IDS),
    "gradient": gradient,
    "rank_candidates": lambda: rk.rank_candidates(QUERY[0], TABLE, IDS),
    "reward_candidates": lambda: rk.reward_candidates(QUERY[0], TABLE, IDS),
    "rank_catalog": lambda: rk.rank_catalog(QUERY[0], TABLE, IDS[:, 0]),
    "reward_catalog": lambda: rk.reward_catalog(QUERY[0], TABLE, IDS[:, 0], IDS),
    "topk_catalog": lambda: rk.topk_catalog(QUERY[0], TABLE, 10),
    "metrics": lambda: rk.metrics_from_counts(
        rk.RankCounts(*(torch.full((20_000,), n) for n in (5, 1, 99))), ("ndcg@10", "mrr")
    ),
    "quantized": lambda: rk.rank_catalog(QUERY[0], rk.quantize_table(TABLE), IDS[:, 0]),
    "sample_negatives": lambda: rk.sample_negatives(50_000, [[1, 2]] * 2000, 20).tolist(),
    "torch": lambda: QUERY[0] @ TABLE.T,
}


@pytest.mark.parametrize("work", WORK.values(), ids=list(WORK))
@pytest.mark.parametrize("threads", [None, 4])
def test_operators(work, threads):
    want = plain(work())

    def again() -> Any:
        if threads:
            torch.set_num_threads(threads)
        return plain(work())

    assert in_child(again) == want
    assert plain(work()) == want  # the parent is as before


def test_a_child_of_a_child_and_a_child_of_a_thread():
    work = WORK["rank_catalog"]
    want = plain(work())
    assert in_child(lambda: (plain(work()), in_child(lambda: plain(work())))) == (want, want)
    answers: list[Any] = []
    both = lambda: answers.extend([plain(work()), in_child(lambda: plain(work()))])  # noqa: E731
    thread = threading.Thread(target=both)
    thread.start()
    thread.join()
    assert answers == [want, want]


def test_one_thread_where_openmp_cannot_end_its_threads(monkeypatch):
    WORK["rank_catalog"]()
    monkeypatch.setattr(forking.ctypes, "CDLL", lambda path: types.SimpleNamespace())
    threads = torch.get_num_threads()
    assert in_child(torch.get_num_threads) == 1
    assert torch.get_num_threads() == threads
    assert in_child(lambda: plain(WORK["rank_catalog"]())) == plain(WORK["rank_catalog"]())


@pytest.fixture(scope="module")
def services(encoder):
    index = rk.ItemIndex.from_embeddings(
        torch.randn(len(METADATA), 384), ids=range(1, 1 + len(METADATA))
    )
    local = rk.LocalRetrievalService({"toys": index}, encoder).register("forked", "tests")
    limits = Limits(max_inflight_texts=64)
    batching = BatchingService({"toys": LocalItems(index)}, encoder.encode_queries, limits)
    return local, batching


ARGUMENTS = (["red soap", "a blue lipstick"], [3, 40], [[1], [2]])


@contextmanager
def busy(lock: threading.Lock):
    """Hold a lock in another thread."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    yield
    free.set()
    thread.join()


def test_a_local_service(services, encoder):
    reward = rk.RecReward("forked", "tests", "toys", "logrank")
    want = reward(*ARGUMENTS)
    assert in_child(lambda: reward(*ARGUMENTS)) == want
    assert in_child(lambda: asyncio.run(reward.score_async(*ARGUMENTS)).rewards) == want
    with busy(encoder._lock):  # the child does not have the thread that would release it
        assert in_child(lambda: reward(*ARGUMENTS)) == want


def test_a_batching_service_in_use(services):
    local, batching = services
    calls = make_calls(8, seed=9)
    want = [plain(getattr(local, call.method)(*call.arguments)) for call in calls]

    async def answer() -> list[Any]:
        methods = [getattr(batching, f"{call.method}_async") for call in calls]
        answers = zip(methods, calls, strict=True)
        got = await asyncio.gather(*(method(*call.arguments) for method, call in answers))
        return [plain(answer) for answer in got]

    def in_other_loop() -> Any:
        return in_child(lambda: asyncio.run(answer()))

    async def fork_while_calls_are_queued() -> tuple[Any, Any]:
        mine = asyncio.ensure_future(answer())
        await asyncio.sleep(0)
        theirs = in_child(lambda: threading_run(answer))
        return await mine, theirs

    mine, theirs = asyncio.run(fork_while_calls_are_queued())
    assert_same(mine, want)
    assert_same(theirs, want)
    assert_same(in_other_loop(), want)


def threading_run(work: Callable[[], Any]) -> Any:
    """Run a coroutine function in another thread: the child's thread is inside a loop."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(work())))
    thread.start()
    thread.join(50)
    return answers[0]


def assert_same(got: list[Any], want: list[Any]) -> None:
    """Counts exactly, scores up to the encoder's last bits, which depend on the batch of texts."""
    assert numbers(got) == pytest.approx(numbers(want), abs=1e-4)


def numbers(answer: Any) -> list[float]:
    """All numbers of nested lists."""
    return [n for part in answer for n in numbers(part)] if isinstance(answer, list) else [answer]


def test_loaders(encoder):
    loader = torch.utils.data.DataLoader(
        list(range(4)), num_workers=2, collate_fn=lambda rows: plain(WORK["rank_catalog"]())
    )
    want = plain(WORK["rank_catalog"]())
    assert list(loader) == [want] * 4


def test_openvino():
    pytest.importorskip("openvino")
    encoder = rk.Encoder(backend="openvino")
    want = encoder.encode_queries(["red soap"]).tolist()
    assert in_child(lambda: encoder.encode_queries(["red soap"]).tolist()) == want
