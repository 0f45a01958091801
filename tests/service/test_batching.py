"""The batching service without Ray, against the service that answers one call at a time."""

import asyncio
import time
from functools import partial

import pytest
import torch

from rl4rec_kernels.service import batching
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.local import encode_finite
from tests.errors import raises
from tests.service.cases import is_same, make_calls


@pytest.fixture
def make(local, encoder):
    def service(encode=None, **limits) -> BatchingService:
        return BatchingService(
            local.items, encode or partial(encode_finite, encoder), Limits(**limits)
        )

    return service


def test_batched_calls_get_their_own_answers(local, make):
    calls = make_calls(60, seed=0)
    service = make()

    async def main() -> list:
        return await asyncio.gather(
            *(getattr(service, f"{c.method}_async")(*c.arguments) for c in calls)
        )

    for call, answer in zip(calls, asyncio.run(main()), strict=True):
        assert is_same(answer, getattr(local, call.method)(*call.arguments)), call
    load = service.load()
    assert load["calls"] == 60
    assert load["texts"] == 120
    assert load["encoded_texts"] == len({text for c in calls for text in c.arguments[0]})
    assert load["inflight_texts"] == load["errors"] == 0
    assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p99"]


def test_long_rankings_are_batched(local, make, monkeypatch):
    monkeypatch.setattr(batching, "_SHORT_CATALOG", 100)
    service = make()
    calls = [call for call in make_calls(64, seed=5, texts=20) if call.arguments[-1] is None]
    said = [text for call in calls for text in call.arguments[0]]

    async def main() -> list:
        await service.rank_async(said, "toys", [1] * len(said))  # encodings are cached from here on
        return await asyncio.gather(*(service.rank_async(*call.arguments) for call in calls))

    for call, answer in zip(calls, asyncio.run(main()), strict=True):
        assert is_same(answer, local.rank(*call.arguments))
    assert service.load()["rank_batch_size"] > 1.5 * 20


def test_a_text_has_the_same_bits_in_all_calls(make):
    texts = [f"text number {i}" for i in range(70)]
    service = make(max_batch_size=16)

    async def main() -> None:
        score = partial(service.calculate_reward_async, dataset_name="toys")
        together, *alone = await asyncio.gather(score(texts), *(score([t]) for t in texts))
        assert torch.equal(together, torch.cat(alone))
        assert torch.equal(together, await score(texts))

    asyncio.run(main())
    assert service.load()["encoded_texts"] == 70


def test_the_cache_is_bounded(make):
    service = make(cache_mib=1)

    async def main() -> None:
        for first in range(0, 1200, 200):
            await service.rank_async(
                [f"t{i}" for i in range(first, first + 200)], "toys", [1] * 200
            )

    asyncio.run(main())
    assert 0.5 < service.load()["cache_mib"] <= 1
    uncached = make(cache_mib=0)

    async def twice() -> None:
        await uncached.rank_async(["a"], "toys", [1])
        await uncached.rank_async(["a", "a"], "toys", [1, 2])

    asyncio.run(twice())
    assert uncached.load()["encoded_texts"] == 2


BAD = [
    ({"dataset_name": "books"}, ValueError, ("unknown data set", "books", "toys")),
    ({"dataset_name": ["toys"]}, ValueError, ("unknown data set", "['toys']")),
    ({"texts": []}, ValueError, ("texts", "empty")),
    ({"texts": ["a", "\ud800"]}, ValueError, ("texts[1]", "Unicode")),
    ({"texts": ["a", "x" * 2**20]}, ValueError, ("texts[1]", "1,048,576", "100,000")),
    ({"targets": [1]}, ValueError, ("targets", 2, "(1,)")),
    ({"targets": [1, 10**6]}, IndexError, ("targets", f"{10**6} in row 1", "not in the index")),
    ({"neg_items": [[1], [0]]}, IndexError, ("neg_items", "0 in row 1")),
    ({"neg_items": [[1]]}, ValueError, ("neg_items", 2, "got 1")),
    ({"histories": [[1], [-7]]}, IndexError, ("histories", "-7 in row 1")),
]


def test_a_bad_call_fails_only_for_its_caller(local, make):
    service = make(batch_wait_timeout_s=0.05)
    good = make_calls(20, seed=1)
    fine = {"texts": ["a", "b"], "dataset_name": "toys", "targets": [1, 2]}

    async def main() -> list:
        return await asyncio.gather(
            *(service.rank_async(**{**fine, **changes}) for changes, _, _ in BAD),
            *(getattr(service, f"{c.method}_async")(*c.arguments) for c in good),
            return_exceptions=True,
        )

    answers = asyncio.run(main())
    for (_, error, named), answer in zip(BAD, answers, strict=False):
        with raises(error, *named):
            raise answer
    for call, answer in zip(good, answers[len(BAD) :], strict=True):
        assert is_same(answer, getattr(local, call.method)(*call.arguments))
    assert service.load()["errors"] == len(BAD)
    assert service.load()["calls"] == len(BAD) + len(good)


def test_a_text_that_cannot_be_encoded_fails_only_for_its_callers(encoder, make):
    def fails_for_some(texts) -> torch.Tensor:
        if any("poison" in text for text in texts):
            raise ValueError("the encoder's output: row 0 holds NaN")
        return encode_finite(encoder, texts)

    service = make(fails_for_some, batch_wait_timeout_s=0.05)

    async def main() -> list:
        texts = (["a"], ["poison", "b"], ["b"], ["poison"], ["c"])
        calls = (service.rank_async(said, "toys", [1] * len(said)) for said in texts)
        return await asyncio.gather(*calls, return_exceptions=True)

    failed = [isinstance(answer, ValueError) for answer in asyncio.run(main())]
    assert failed == [False, True, False, True, False]


def test_calls_without_room_are_refused_and_the_others_answered(encoder, make):
    def slow(texts) -> torch.Tensor:
        time.sleep(0.3)
        return encode_finite(encoder, texts)

    service = make(slow, max_inflight_texts=4, max_batch_size=4, queue_timeout_s=0.2)

    async def main() -> list:
        calls = (service.rank_async([f"{i}"], "toys", [i + 1]) for i in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(main())
    refused = [isinstance(answer, ServiceOverloadedError) for answer in answers]
    assert refused == [False] * 4 + [True] * 4
    assert service.load()["inflight_texts"] == service.load()["queued_calls"] == 0


@pytest.mark.parametrize(
    ("limit", "value", "error"),
    [
        ("max_batch_size", 0, ValueError),
        ("max_inflight_texts", 2.5, TypeError),
        ("batch_wait_timeout_s", -1, ValueError),
        ("queue_timeout_s", "5", TypeError),
    ],
)
def test_invalid_limits_are_named(limit, value, error):
    with raises(error, limit, repr(value)):
        Limits(**{limit: value})
