"""The merging service without Ray, against the service that answers one call at a time."""

import asyncio
import time
from functools import partial

import pytest
import torch

from rl4rec_kernels.service import batching
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.local import encode_finite
from tests.service.cases import is_same, make_calls


@pytest.fixture
def make(local, encoder):
    def service(encode=None, **limits) -> BatchingService:
        return BatchingService(
            local.items, encode or partial(encode_finite, encoder), Limits(**limits)
        )

    return service


def test_merged_calls_get_their_own_answers(local, make):
    calls = make_calls(60, seed=0)
    service = make()

    async def main() -> list:
        return await asyncio.gather(*(getattr(service, c.method)(*c.arguments) for c in calls))

    for call, answer in zip(calls, asyncio.run(main()), strict=True):
        assert is_same(answer, getattr(local, call.method)(*call.arguments)), call
    load = service.load()
    assert load["calls"] == 60
    assert load["texts"] == 120
    assert load["texts_encoded"] == len({text for c in calls for text in c.arguments[0]})
    assert load["texts_in_work"] == load["errors"] == 0
    assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p99"]


def test_long_rankings_are_merged(local, make, monkeypatch):
    monkeypatch.setattr(batching, "_SHORT_CATALOG", 100)
    service = make()
    calls = [call for call in make_calls(64, seed=5, texts=20) if call.arguments[-1] is None]
    said = [text for call in calls for text in call.arguments[0]]

    async def main() -> list:
        await service.rank(said, "toys", [1] * len(said))  # encodings are remembered from here on
        return await asyncio.gather(*(service.rank(*call.arguments) for call in calls))

    for call, answer in zip(calls, asyncio.run(main()), strict=True):
        assert is_same(answer, local.rank(*call.arguments))
    assert service.load()["calls_per_ranking"] > 1.5


def test_a_text_has_the_same_bits_in_all_calls(make):
    texts = [f"text number {i}" for i in range(70)]
    service = make(max_batch=16)

    async def main() -> None:
        score = partial(service.calculate_reward, dataset_name="toys")
        together, *alone = await asyncio.gather(score(texts), *(score([t]) for t in texts))
        assert torch.equal(together, torch.cat(alone))
        assert torch.equal(together, await score(texts))

    asyncio.run(main())
    assert service.load()["texts_encoded"] == 70


def test_what_is_remembered_is_bounded(make):
    service = make(cache_mib=1)

    async def main() -> None:
        for first in range(0, 1200, 200):
            await service.rank([f"t{i}" for i in range(first, first + 200)], "toys", [1] * 200)

    asyncio.run(main())
    assert 0.5 < service.load()["cache_mib"] <= 1
    forgets = make(cache_mib=0)

    async def twice() -> None:
        await forgets.rank(["a"], "toys", [1])
        await forgets.rank(["a", "a"], "toys", [1, 2])

    asyncio.run(twice())
    assert forgets.load()["texts_encoded"] == 2


BAD = [
    ({"dataset_name": "books"}, ValueError, "unknown data set 'books'; this service has 'toys'"),
    ({"dataset_name": ["toys"]}, ValueError, "unknown data set"),
    ({"texts": []}, ValueError, "texts is empty"),
    ({"texts": ["a", "\ud800"]}, ValueError, r"texts\[1\] is no valid Unicode"),
    ({"texts": ["a", "x" * 2**20]}, ValueError, r"texts\[1\] has 1,048,576 characters but"),
    ({"targets": [1]}, ValueError, "one id for each of the 2"),
    ({"targets": [1, 10**6]}, IndexError, "targets: item 1000000 is not in the index"),
    ({"neg_items": [[1], [0]]}, IndexError, "neg_items: 0 is not an item"),
    ({"neg_items": [[1]]}, ValueError, "neg_items must have one list for each of the 2"),
    ({"histories": [[1], [-7]]}, IndexError, "histories: -7 is not an item id"),
]


def test_a_bad_call_harms_nobody_else(local, make):
    service = make(max_wait_ms=50)
    good = make_calls(20, seed=1)
    fine = {"texts": ["a", "b"], "dataset_name": "toys", "targets": [1, 2]}

    async def main() -> list:
        return await asyncio.gather(
            *(service.rank(**{**fine, **changes}) for changes, _, _ in BAD),
            *(getattr(service, c.method)(*c.arguments) for c in good),
            return_exceptions=True,
        )

    answers = asyncio.run(main())
    for (_, error, words), answer in zip(BAD, answers, strict=False):
        with pytest.raises(error, match=words):
            raise answer
    for call, answer in zip(good, answers[len(BAD) :], strict=True):
        assert is_same(answer, getattr(local, call.method)(*call.arguments))
    assert service.load()["errors"] == len(BAD)


def test_a_text_that_cannot_be_encoded_harms_nobody_else(encoder, make):
    def fails_for_some(texts) -> torch.Tensor:
        if any("poison" in text for text in texts):
            raise ValueError("the encoder's output: row 0 holds NaN")
        return encode_finite(encoder, texts)

    service = make(fails_for_some, max_wait_ms=50)

    async def main() -> list:
        texts = (["a"], ["poison", "b"], ["b"], ["poison"], ["c"])
        calls = (service.rank(said, "toys", [1] * len(said)) for said in texts)
        return await asyncio.gather(*calls, return_exceptions=True)

    failed = [isinstance(answer, ValueError) for answer in asyncio.run(main())]
    assert failed == [False, True, False, True, False]


def test_calls_that_find_no_room_are_told_and_the_others_served(encoder, make):
    def slow(texts) -> torch.Tensor:
        time.sleep(0.3)
        return encode_finite(encoder, texts)

    service = make(slow, capacity=4, max_batch=4, queue_timeout_s=0.2)

    async def main() -> list:
        calls = (service.rank([f"{i}"], "toys", [i + 1]) for i in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(main())
    refused = [isinstance(answer, ServiceOverloadedError) for answer in answers]
    assert refused == [False] * 4 + [True] * 4
    assert service.load()["texts_in_work"] == service.load()["calls_in_line"] == 0


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"max_batch": 0}, ValueError, "max_batch must be at least 1, got 0"),
        ({"capacity": 2.5}, TypeError, "capacity must be a whole number"),
        ({"max_wait_ms": -1}, ValueError, "max_wait_ms must be a number of at least 0, got -1"),
        (
            {"queue_timeout_s": "5"},
            ValueError,
            "queue_timeout_s must be a number of at least 0, got '5'",
        ),
    ],
)
def test_bad_limits_are_named(limits, error, words):
    with pytest.raises(error, match=words):
        Limits(**limits)


def test_the_local_service_has_the_same_coroutines(local):
    for call in make_calls(4, seed=2):
        coroutine = getattr(local, f"{call.method}_async")(*call.arguments)
        assert is_same(asyncio.run(coroutine), getattr(local, call.method)(*call.arguments))
