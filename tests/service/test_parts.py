"""Large calls, which are answered in parts, and the bound on the memory of all calls."""

import asyncio

import pytest
import torch

from rl4rec_kernels.service import local as local_module
from rl4rec_kernels.service.batcher import MemoryBudget, ServiceOverloadedError
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.calls import check_call
from rl4rec_kernels.service.parts import cut, held_bytes
from tests.errors import raises
from tests.service.cases import is_same, make_calls


def encode(texts: list[str]) -> torch.Tensor:
    """Equal texts get equal vectors; no model."""
    rows = [torch.Generator().manual_seed(hash(text) % 2**32) for text in texts]
    vectors = [torch.randn(384, generator=row, dtype=torch.float32) for row in rows]
    return torch.stack(vectors)


@pytest.fixture
def make(local):
    return lambda **limits: BatchingService(local.items, encode, Limits(**limits))


def test_parts_of_calls_of_all_kinds_are_answered_as_the_whole(make):
    whole, in_parts = make(), make(max_rank_batch_size=3)

    calls = make_calls(14, seed=3, texts=8)
    calls.append(calls[0]._replace(method="calculate_reward", arguments=(list("abcdefgh"), "toys")))

    async def answers(service: BatchingService) -> list:
        return [await getattr(service, f"{c.method}_async")(*c.arguments) for c in calls]

    want, got = asyncio.run(answers(whole)), asyncio.run(answers(in_parts))
    for call, mine, theirs in zip(calls, got, want, strict=True):
        assert is_same(mine, theirs), call
    assert in_parts.load()["texts"] == 15 * 8
    assert in_parts.load()["errors"] == in_parts._memory.used == 0


def test_a_local_service_answers_in_parts_too(local, monkeypatch):
    calls = make_calls(7, seed=4, texts=5)
    want = [getattr(local, call.method)(*call.arguments) for call in calls]
    monkeypatch.setattr(local_module, "_PART", 2)
    for call, answer in zip(calls, want, strict=True):
        assert is_same(getattr(local, call.method)(*call.arguments), answer)


def test_a_large_call_does_not_keep_others_waiting(make):
    service = make(max_rank_batch_size=8, max_batch_size=8, max_inflight_texts=8)
    order = []

    async def rank(name: str, count: int) -> None:
        await service.rank_async([f"{name}{i}" for i in range(count)], "toys", [1] * count)
        order.append(name)

    async def main() -> None:
        await asyncio.gather(rank("large", 200), rank("small", 2))

    asyncio.run(main())
    assert order == ["small", "large"]


def test_an_error_names_the_row_in_the_call_not_in_its_part(make):
    service = make(max_rank_batch_size=2)
    with raises(IndexError, "targets", "9999 in row 5"):
        asyncio.run(service.rank_async(list("abcdef"), "toys", [1, 1, 1, 1, 1, 9999]))


def test_memory_of_a_call_covers_what_it_holds():
    texts, ids = ["x" * 1000] * 10, [[1] * 500] * 10
    ranked = check_call(texts, "toys", [1] * 10, ids, None, False)
    assert 10 * (1000 + 8 * 501) < held_bytes(ranked, 10**6) < 3 * 10 * (1100 + 8 * 502)
    scored = check_call(texts, "toys", None, None, None, True)
    assert held_bytes(scored, 10**6) > 10 * 4 * 10**6
    parts = sum(held_bytes(part, 10**6) for part in cut(scored, 3))
    assert parts == held_bytes(scored, 10**6)


def test_calls_beyond_the_memory_are_refused_and_others_answered(make):
    service = make(max_held_mib=1)

    async def main() -> list:
        with raises(ValueError, "max_held_mib=1", "MiB"):
            await service.calculate_reward_async(["a"] * 2000, "toys")
        texts = [[f"{i} {'x' * 2000}"] * 60 for i in range(8)]  # 0.24 MiB each
        calls = [service.rank_async(said, "toys", [1] * 60) for said in texts]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert (await service.rank_async(["a"], "toys", [1])).total.tolist() == [504]
        return answers

    answers = asyncio.run(main())
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(refused) == 6
    for error in refused:
        assert isinstance(error, ServiceOverloadedError)
        assert "max_held_mib=1" in str(error)
    assert service._memory.used == 0


def test_a_budget_is_given_back_after_an_error():
    budget = MemoryBudget(1)
    with raises(KeyError), budget.hold(2**20):
        with raises(ServiceOverloadedError, "max_held_mib=1"), budget.hold(1):
            pass
        raise KeyError
    assert budget.used == 0
