"""Log-probabilities from every kind of service, against the softmax of all scores."""

import asyncio
import pickle
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl4rec_kernels import ItemIndex, RaggedIds, rank_catalog
from rl4rec_kernels.service import shards
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.calls import Call, Ranked, check_call
from rl4rec_kernels.service.items import LocalItems, answer_calls
from rl4rec_kernels.service.local import encode_finite
from rl4rec_kernels.service.shards import Shard, ShardedItems
from rl4rec_kernels.service.wire import pack_answer
from tests.errors import raises

TEXTS = ["glitter nail polish", "shampoo for dry hair", "a perfume for men"]
TARGETS = [2, 60, 150]
NEGATIVES = [[5, 9, 150, 7], [1], [3, 4, 60]]
HISTORIES = [[1, 2, 3, 199], [], list(range(1, 200))]  # the first has the target
TEMPERATURES = [0.02, 0.2, 1.0, 50.0]
ALL = range(1, 505)
INF, NAN = torch.inf, torch.nan


def normal(rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))


def softmax_of_first(scores: Tensor, temperature: float) -> float:
    """The share of the first score; infinite scores share, as in the limit."""
    scores = scores.double()
    largest = scores.max()
    shares = torch.where(scores == largest, 0.0, (scores - largest) / temperature).exp()
    return float(shares[0] / shares.sum())


def competitors(target: int, negatives: Any, history: Any, items: Any) -> list[int]:
    others = (set(items) - set(history or [])) if negatives is None else set(negatives)
    return [target, *sorted(others - {target})]


IDS = {
    "negatives": (NEGATIVES, None),
    "histories": (None, HISTORIES),
    "all items": (None, None),
}


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", IDS)
def test_a_local_service(local, kind, temperature):
    negatives, histories = IDS[kind]
    scores = local.calculate_reward(TEXTS, "toys")
    want = [
        softmax_of_first(
            scores[b, competitors(t, negatives and negatives[b], histories and histories[b], ALL)],
            temperature,
        )
        for b, t in enumerate(TARGETS)
    ]
    got = local.rank_with_log_prob(TEXTS, "toys", TARGETS, negatives, histories, temperature)
    assert isinstance(got, Ranked)
    assert (got.log_probs.dtype, got.log_probs.shape) == (torch.float32, (3,))
    assert got.log_probs.double().exp().tolist() == pytest.approx(want, abs=1e-6)
    counts = local.rank(TEXTS, "toys", TARGETS, negatives, histories)
    assert torch.equal(torch.stack(got.counts), torch.stack(counts))


def calls_at(*temperatures: float) -> list[Call]:
    """Calls of every kind at each temperature, among them calls of `rank`."""
    calls = []
    for ids in IDS.values():
        calls.append(check_call(TEXTS, "toys", TARGETS, *ids, False))
        for temperature in temperatures:
            arguments = (TEXTS, "toys", TARGETS, *ids, False, True, temperature)
            calls.append(check_call(*arguments))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_answered_together_get_the_bits_that_they_get_alone(index_file, dtype):
    index = ItemIndex.open(index_file)
    index = ItemIndex(index.table.to(dtype), index.valid, index.origin)
    datasets = {"toys": LocalItems(index)}
    calls = calls_at(*TEMPERATURES, 0.2)
    query = torch.nn.functional.normalize(torch.randn(3 * len(calls), 384), dim=1)
    together = answer_calls(datasets, calls, query)
    for call, mine, got in zip(calls, query.split(3), together, strict=True):
        (want,) = answer_calls(datasets, [call], mine)
        assert type(got) is type(want)
        assert all(map(torch.equal, flat(got), flat(want)))


def flat(answer: Any) -> list[Tensor]:
    return [*answer.counts, answer.log_probs] if isinstance(answer, Ranked) else list(answer)


def test_concurrent_calls_with_different_temperatures(local, encoder):
    service = BatchingService(local.items, partial(encode_finite, encoder), Limits())
    cases = [(ids, t) for ids in IDS.values() for t in TEMPERATURES]

    async def main() -> list:
        return await asyncio.gather(
            *(
                service.rank_with_log_prob_async(TEXTS, "toys", TARGETS, *ids, temperature)
                for ids, temperature in cases
            )
        )

    for (ids, temperature), got in zip(cases, asyncio.run(main()), strict=True):
        want = local.rank_with_log_prob(TEXTS, "toys", TARGETS, *ids, temperature)
        torch.testing.assert_close(got.log_probs, want.log_probs, rtol=1e-5, atol=1e-5)
        assert torch.equal(torch.stack(got.counts), torch.stack(want.counts))
    assert service.load()["encoded_texts"] == 3


class Handles:
    """Shards in this process, called as on Ray; counts the bytes that would be sent."""

    def __init__(self, monkeypatch: Any, path: Any, parts: int) -> None:
        self.sent = 0
        monkeypatch.setattr(shards, "require", lambda *_: self)
        self.shards = [
            Shard({"toys": path}, part, parts, torch.get_num_threads()) for part in range(parts)
        ]
        self.items = ShardedItems("toys", ItemIndex.open(path), list(map(self.handle, self.shards)))

    def copied(self, value: Any) -> Any:
        packed = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self.sent += len(packed)
        return pickle.loads(packed)

    def handle(self, shard: Shard) -> Any:
        def method(name: str) -> Any:
            def remote(*arguments: Any) -> Any:
                result = self.copied(getattr(shard, name)(*self.copied(arguments)))
                return SimpleNamespace(future=lambda: SimpleNamespace(result=lambda: result))

            return SimpleNamespace(remote=remote)

        return type("Handle", (), {"__getattr__": lambda _, name: method(name)})()

    def get(self, references: list[Any]) -> list[Any]:
        return [reference.future().result() for reference in references]

    def put(self, value: Any) -> Any:
        return value


def save(table: Tensor, folder: Any, valid: list[int] | None = None) -> Any:
    path = folder / "toys.safetensors"
    rows = range(len(table)) if valid is None else valid
    ItemIndex.from_embeddings(table[rows], ids=rows).save(path)
    return path


@pytest.mark.parametrize(("rows", "parts"), [(61, 1), (61, 2), (61, 7), (12, 15)])
def test_shards_add_up_to_the_whole_table(monkeypatch, tmp_path, rows, parts):
    draw = np.random.default_rng(0)
    valid = [i for i in range(rows) if i % 7 != 3]
    path = save(torch.nn.functional.normalize(normal(rows, 16), dim=1), tmp_path, valid)
    sharded, whole = Handles(monkeypatch, path, parts).items, LocalItems(ItemIndex.open(path))
    query, targets = (
        torch.nn.functional.normalize(normal(20, 16), dim=1),
        draw.choice(valid, 20),
    )
    histories = [draw.choice(rows, draw.integers(0, 3 * rows)) for _ in range(18)]
    histories += [[], list(range(rows))]
    negatives = [draw.choice(valid, draw.integers(1, 30)) for _ in range(20)]
    for ids in ((None, None), (None, histories), (negatives, None)):
        for temperature in TEMPERATURES:
            call = check_call(["x"] * 20, "toys", targets, *ids, False, True, temperature)
            (got,), (want,) = (items.answer([call], query) for items in (sharded, whole))
            assert torch.equal(torch.stack(got.counts), torch.stack(want.counts))
            torch.testing.assert_close(got.log_probs, want.log_probs, rtol=1e-6, atol=1e-6)
            if ids[1] is histories:
                assert got.log_probs[-1] == 0  # no other item competes


def test_a_row_does_not_depend_on_the_batch_with_shards(monkeypatch, tmp_path):
    sharded = Handles(monkeypatch, save(normal(200, 8), tmp_path), 3).items
    query, targets = normal(9, 8), np.arange(0, 180, 20)
    seen = [list(range(b)) for b in range(9)]
    call = check_call(["x"] * 9, "toys", targets, None, seen, False, True, 0.3)
    (together,) = sharded.answer([call], query)
    for b in range(9):
        alone = check_call(["x"], "toys", targets[b : b + 1], None, [seen[b]], False, True, 0.3)
        (got,) = sharded.answer([alone], query[b : b + 1])
        assert got.log_probs[0] == together.log_probs[b]


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ([INF, 1.0, INF, 0.0], 1 / 2),
        ([1.0, INF, INF, 0.0], 0.0),
        ([INF, 1.0, 0.0, 0.0], 1.0),
        ([-INF, 1.0, 0.0, 0.0], 0.0),
        ([-INF, -INF, -INF, -INF], 1 / 4),
        ([-INF, -INF, INF, -INF], 0.0),
        ([NAN, 1.0, INF, -INF], 0.0),
        ([3e38, -3e38, 3e38, 3e38], 1 / 3),
    ],
)
@pytest.mark.parametrize("column", [0, 3])
def test_scores_that_are_not_finite(monkeypatch, scores, share, column):
    scores = scores.copy()
    scores[0], scores[column] = scores[column], scores[0]
    table = torch.tensor(scores)[:, None]
    finite = ItemIndex.from_embeddings(torch.ones(4, 1), ids=range(4))
    index = ItemIndex(table, finite.valid, finite.origin)
    query = torch.ones(1, 1)
    others = [i for i in range(4) if i != column]
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    for negatives in (None, [others]):
        call = check_call(["x"], "toys", [column], negatives, None, False, True, 0.01)
        (got,) = LocalItems(index).answer([call], query)
        assert got.log_probs.exp().item() == pytest.approx(share, abs=1e-6)
    found = [
        shards.count_and_sum(
            query,
            shards.Catalog(table[part], None, None, None),
            shards.local_ids(torch.tensor([column]), part.start, part.stop),
            shards.NO_IDS,
            table[column],
            0.01,
        )
        for part in parts
    ]
    counts, sums = zip(*found, strict=True)
    want = rank_catalog(query, table, [column])
    assert sum(counts)[:, 0].tolist() == [int(want.above), int(want.tied), int(want.total) - 1]
    got = shards.target_log_probs(table[column], sums, 0.01).nan_to_num(-INF)
    assert got.exp().item() == pytest.approx(share, abs=1e-6)


def test_what_is_sent_does_not_grow_with_the_table(monkeypatch, tmp_path):
    sent, packed = [], []
    for rows in (1_000, 9_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        path = save(normal(rows, 4), folder)
        handles = Handles(monkeypatch, path, 2)
        handles.sent = 0
        call = check_call(["x"] * 3, "toys", [1, 2, 3], None, [[5], [], [6]], False, True, 0.1)
        (answer,) = handles.items.answer([call], normal(3, 4))
        sent.append(handles.sent)
        packed.append(len(pack_answer(answer)))
    assert packed == [3 * 28] * 2
    assert sent[0] == pytest.approx(sent[1], abs=16)  # numbers may be a byte longer
    assert sent[0] < 10_000


@pytest.mark.parametrize(
    ("temperature", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (NAN, ValueError),
        (1e31, ValueError),
        (None, TypeError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_bad_temperatures_are_named(local, encoder, temperature, error):
    arguments = (TEXTS, "toys", TARGETS, None, None, temperature)
    with raises(error, "temperature", temperature):
        local.rank_with_log_prob(*arguments)
    service = BatchingService(local.items, partial(encode_finite, encoder), Limits())
    with raises(error, "temperature", temperature):
        asyncio.run(service.rank_with_log_prob_async(*arguments))
    assert service.load()["errors"] == 1


def test_ids_are_checked_as_for_rank(local):
    with raises(IndexError, "targets", 999):
        local.rank_with_log_prob(["x"], "toys", [999])
    with raises(IndexError, "histories", 999):
        local.rank_with_log_prob(["x"], "toys", [1], histories=[[999]])
    with raises(IndexError, "neg_items", 0):
        local.rank_with_log_prob(["x"], "toys", [1], RaggedIds.from_lists([[0]]))
