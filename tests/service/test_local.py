"""The service in the caller's process, against a loop over rows."""

import asyncio
import threading

import numpy as np
import pytest
import torch

from rl4rec_kernels import Encoder, ItemIndex, LocalRetrievalService, RaggedIds, load_item_metadata
from rl4rec_kernels.service import find_service, items
from tests.errors import raises
from tests.service.cases import is_same, make_calls

TEXTS = ["glitter nail polish", "shampoo for dry hair", "a perfume for men"]
TARGETS = [2, 60, 150]
NEGATIVES = [[5, 9, 150, 7], [1], [3, 4, 60, 3]]
HISTORIES = [[1, 2, 3, 199], [], list(range(1, 200))]


def ragged(values, offsets) -> RaggedIds:
    return RaggedIds(np.array(values), np.array(offsets))


@pytest.fixture(scope="module")
def index(encoder: Encoder, beauty_dir) -> ItemIndex:
    metadata = load_item_metadata("beauty", data_dir=beauty_dir)
    return ItemIndex.build({item: metadata[item] for item in range(1, 200)}, encoder)


@pytest.fixture(scope="module")
def service(index, encoder) -> LocalRetrievalService:
    return LocalRetrievalService({"beauty": index}, encoder)


def test_scores_of_targets_and_negatives(service, index, encoder):
    scores = service.calculate_reward(TEXTS, "beauty", targets=TARGETS, neg_items=NEGATIVES)
    query = encoder.encode_queries(TEXTS)
    assert scores.shape == (3, 5)
    for b, (target, negatives) in enumerate(zip(TARGETS, NEGATIVES, strict=True)):
        want = index.table[[target, *negatives]] @ query[b]
        torch.testing.assert_close(scores[b, : len(want)], want, rtol=0, atol=1e-5)
        assert (scores[b, len(want) :] == -torch.inf).all()


def test_an_int8_copy_does_not_change_ranks(service, index, encoder, monkeypatch):
    monkeypatch.setattr(items, "_MIN_COPIED", 1)
    monkeypatch.setattr(items, "_MIN_PAIRS", 1)
    copied = LocalRetrievalService({"beauty": index}, encoder)
    assert copied.items["beauty"]._copy is not None
    for with_copy, without in zip(
        copied.rank(TEXTS, "beauty", TARGETS, NEGATIVES),
        service.rank(TEXTS, "beauty", TARGETS, NEGATIVES),
        strict=True,
    ):
        assert torch.equal(with_copy, without)


def test_scores_of_the_whole_catalog(service, index, encoder):
    scores = service.calculate_reward(TEXTS, dataset_name="beauty", targets=TARGETS)
    assert scores.shape == (3, 200)
    assert (scores[:, 0] == -torch.inf).all()
    want = encoder.encode_queries(TEXTS) @ index.table[1:].T
    torch.testing.assert_close(scores[:, 1:], want, rtol=0, atol=1e-5)


def test_ranks_are_those_of_the_scores(service):
    counts = service.rank(TEXTS, "beauty", TARGETS, neg_items=NEGATIVES)
    scores = service.calculate_reward(TEXTS, "beauty", TARGETS, NEGATIVES)
    assert counts.above.tolist() == (scores[:, 1:] > scores[:, :1]).sum(1).tolist()
    assert counts.total.tolist() == [5, 2, 5]

    everything = service.calculate_reward(TEXTS, "beauty")
    counts = service.rank(TEXTS, "beauty", TARGETS, histories=HISTORIES)
    for b, (target, history) in enumerate(zip(TARGETS, HISTORIES, strict=True)):
        others = [i for i in range(1, 200) if i not in history and i != target]
        assert counts.total[b] == 1 + len(others)
        assert counts.above[b] == (everything[b, others] > everything[b, target]).sum()


def test_padding_arrays_and_ragged_ids_are_the_same(service):
    want = service.rank(TEXTS, "beauty", TARGETS, NEGATIVES)
    padded = torch.tensor([[*row, *[-1] * (4 - len(row))] for row in NEGATIVES])
    for form in (padded, padded.numpy(), RaggedIds.from_lists(NEGATIVES)):
        got = service.rank(TEXTS, "beauty", torch.tensor(TARGETS), form)
        assert torch.equal(torch.stack(got), torch.stack(want))


def test_each_thread_gets_its_own_answers(service):
    want = [service.calculate_reward([text], "beauty") for text in TEXTS]
    wrong = []

    def call(i: int) -> None:
        for _ in range(5):
            got = service.calculate_reward([TEXTS[i]], "beauty")
            if not torch.equal(got, want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"dataset_name": "toys"}, ValueError, ("unknown data set", "'toys'", "'beauty'")),
        ({"texts": []}, ValueError, ("texts", "empty")),
        ({"texts": "abc"}, TypeError, ("texts", "list of strings", "str")),
        ({"targets": None}, ValueError, ("targets",)),
        ({"targets": [1, 2]}, ValueError, ("targets", 3, "(2,)")),
        ({"targets": [1, 2, 200]}, IndexError, ("targets", "item 200", "below 200")),
        ({"targets": [1, 2, 0]}, IndexError, ("targets", "0 ")),
        ({"targets": [1, 2, -1]}, IndexError, ("targets", "item -1")),
        ({"targets": [1.0, 2.0, 3.0]}, TypeError, ("targets", "float64")),
        ({"targets": [[1], [], [4]]}, ValueError, ("targets",)),
        ({"targets": np.array([1, 2, 2**63], np.uint64)}, IndexError, ("targets", 2**63)),
        ({"neg_items": [[1], [2]]}, ValueError, ("neg_items", 3, "got 2")),
        ({"neg_items": [[1], [2], [500]]}, IndexError, ("neg_items", "item 500")),
        ({"neg_items": [[1], [2], [0]]}, IndexError, ("neg_items", "0 ")),
        ({"neg_items": [[1], [2], [-2]]}, IndexError, ("neg_items", -2)),
        ({"neg_items": [[1], [2], ["x"]]}, TypeError, ("neg_items[2]",)),
        ({"neg_items": 7}, TypeError, ("neg_items", "list of lists", 7)),
        ({"neg_items": ragged([1.7, 2], [0, 1, 2, 2])}, TypeError, ("neg_items.values", "float64")),
        ({"neg_items": ragged([1, 2], [0, 1, 1, 1])}, ValueError, ("neg_items.offsets", "0 to 2")),
        ({"neg_items": ragged([1, 2], [1, 1, 2, 2])}, ValueError, ("neg_items.offsets", "0 to 2")),
        ({"neg_items": ragged([1, 2], [0, 2, 1, 2])}, ValueError, ("neg_items.offsets", "0 to 2")),
        ({"neg_items": ragged([1, 2], [0, 2])}, ValueError, ("neg_items", 3, "got 1")),
    ],
)
def test_invalid_arguments_are_named(service, changes, error, named):
    arguments = {
        "texts": TEXTS,
        "dataset_name": "beauty",
        "targets": TARGETS,
        "neg_items": NEGATIVES,
    } | changes
    for method in (service.calculate_reward, service.rank):
        with raises(error, *named):
            method(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"texts": None}, TypeError, ("texts", "list of strings", "NoneType")),
        ({"texts": "abc"}, TypeError, ("texts", "str", "in a list")),
        ({"targets": [1, 2]}, ValueError, ("targets", 3, "(2,)")),
        ({"targets": [1, 2, 0]}, IndexError, ("targets", "0 ")),
    ],
)
def test_invalid_arguments_are_named_without_negatives_too(service, changes, error, named):
    arguments = {"texts": TEXTS, "dataset_name": "beauty", "targets": TARGETS} | changes
    for method in (service.calculate_reward, service.rank):
        with raises(error, *named):
            method(**arguments)


def test_invalid_histories_are_named(service):
    with raises(IndexError, "histories", "item 999", "not in the index"):
        service.rank(TEXTS, "beauty", TARGETS, histories=[[999], [], []])
    with raises(ValueError, "histories", 3, "got 1"):
        service.rank(TEXTS, "beauty", TARGETS, histories=[[1]])


def test_an_index_must_belong_to_the_encoder(index, encoder):
    with raises(ValueError, "datasets['a']", "another encoder"):
        LocalRetrievalService({"a": index}, Encoder(encoder.model, normalize=False))
    narrow = ItemIndex.from_embeddings(torch.ones(5, 10), ids=range(5))
    with raises(ValueError, "datasets['a']", 384, 10):
        LocalRetrievalService({"a": narrow}, encoder)
    with raises(ValueError, "datasets", "{}"):
        LocalRetrievalService({}, encoder)
    with raises(TypeError, "datasets['a']", "ItemIndex"):
        LocalRetrievalService({"a": torch.ones(2, 384)}, encoder)


def test_a_damaged_table_is_refused(index, encoder):
    table = index.table.clone()
    table[7, 3] = torch.nan
    with raises(ValueError, "datasets['a']", "row 7", "NaN"):
        LocalRetrievalService({"a": ItemIndex(table, index.valid, index.origin)}, encoder)


def test_a_non_finite_encoding_is_refused(index):
    broken = Encoder()
    with torch.no_grad():
        broken.model[0].auto_model.embeddings.word_embeddings.weight[2:].fill_(torch.nan)
    index = ItemIndex.from_embeddings(index.table)
    with raises(ValueError, "encoder", "row 0", "NaN"):
        LocalRetrievalService({"beauty": index}, broken).rank(["soap"], "beauty", [1])


def test_services_are_found_by_name(service):
    service.register("mine", "tests")
    assert find_service("mine", "tests") is service
    with raises(LookupError, "'other'", "'tests'", "LocalRetrievalService"):
        find_service("other", "tests")


def test_coroutines_answer_as_the_methods(local):
    for call in make_calls(4, seed=2):
        coroutine = getattr(local, f"{call.method}_async")(*call.arguments)
        assert is_same(asyncio.run(coroutine), getattr(local, call.method)(*call.arguments))


def test_a_text_is_encoded_once_unless_there_is_no_memory(index, encoder, monkeypatch):
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return torch.ones(len(texts), 384) * torch.tensor([[len(text)] for text in texts])

    remembering = LocalRetrievalService({"beauty": index}, encoder)
    forgetting = LocalRetrievalService({"beauty": index}, encoder, cache_mib=0)
    monkeypatch.setattr(encoder, "encode_queries", encode)
    calls = (["a", "bb", "a"], ["ccc", "bb"], ["bb", "a", "ccc"])
    answers = [
        [service.calculate_reward(texts, "beauty") for texts in calls]
        for service in (remembering, forgetting)
    ]
    assert encoded[:3] == ["a", "bb", "ccc"]
    assert encoded[3:] == ["a", "bb", "ccc", "bb", "bb", "a", "ccc"]
    for got, want in zip(*answers, strict=True):
        assert torch.equal(got, want)
    with raises(ValueError, "cache_mib", -1):
        LocalRetrievalService({"beauty": index}, encoder, cache_mib=-1)
