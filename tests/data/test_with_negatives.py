"""Datasets with given negatives, such as hard ones."""

import pickle

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import data
from tests.data.cases import ITEMS, dataset, write_tiny
from tests.errors import raises

SEEN = [{3, 1, 2, 4, 5}, {5, 4, 3, 2}, {1, 2, 3, 4, 5, 6}]
GIVEN = [[9, 6], [1, 8], [7, 9]]  # of users 1, 2 and 7


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_seen_is_what_a_user_has_in_any_split(tmp_path, split):
    ds = dataset(write_tiny(tmp_path), split)
    assert [set(row) for row in ds.seen.to_lists()] == SEEN


@pytest.mark.parametrize("form", [list, np.array, lambda rows: torch.tensor(rows).int()])
def test_given_negatives(tmp_path, form):
    ds = dataset(write_tiny(tmp_path), num_negs=1, num_items=10)
    before = ds.negatives.copy()
    hard = ds.with_negatives(form(GIVEN))
    assert [sample["neg_items"] for sample in hard] == GIVEN
    assert hard.negatives.dtype == np.int64
    assert hard.num_negs == 2
    assert "num_negs=2" in repr(hard)
    for name in ("prompt", "history", "target", "user_id"):
        assert [sample[name] for sample in hard] == [sample[name] for sample in ds]
    assert hard.to_hf()["neg_items"] == GIVEN
    assert list(pickle.loads(pickle.dumps(hard))) == list(hard)
    assert np.array_equal(ds.negatives, before)
    assert ds.num_negs == 1


def test_random_negatives_besides_given_ones(tmp_path):
    root = write_tiny(tmp_path, items={str(i): {"title": str(i)} for i in range(1, 40)})
    ds = dataset(root)  # without num_items: no negatives are drawn here
    mixed = ds.with_negatives(GIVEN, num_random=30)
    assert mixed.num_negs == 32
    assert mixed.negatives[:, :2].tolist() == GIVEN
    for row, seen in zip(mixed.negatives.tolist(), SEEN, strict=True):
        assert len(set(row)) == 32
        assert not set(row) & seen
        assert set(row) <= set(range(1, 40))
    again = dataset(root).with_negatives(GIVEN, num_random=30)
    assert np.array_equal(again.negatives, mixed.negatives)
    other = dataset(root, seed=1).with_negatives(GIVEN, num_random=30)
    assert not np.array_equal(other.negatives, mixed.negatives)
    # Drawn as documented: the given ones count as seen.
    by_hand = rk.sample_negatives(
        40,
        [[*row, *seen] for row, seen in zip(GIVEN, SEEN, strict=True)],
        30,
        seed=rk.data.split_seed(42, "train"),
        user_ids=ds.user_ids,
    )
    assert np.array_equal(mixed.negatives[:, 2:], by_hand)
    # A second call replaces the negatives.
    assert np.array_equal(mixed.with_negatives(GIVEN, num_random=30).negatives, mixed.negatives)
    assert mixed.with_negatives(np.empty((3, 0))).num_negs == 0


def test_random_negatives_follow_neg_alpha(tmp_path):
    ds = dataset(write_tiny(tmp_path), "test", num_items=10, neg_alpha=1.0)
    random = ds.with_negatives([[9], [8], [9]], num_random=0)
    assert random.num_negs == 1
    with raises(ValueError, "user 1", "0 items", "weight"):
        ds.with_negatives([[9], [8], [9]], num_random=1)


@pytest.mark.parametrize(
    ("negatives", "error", "named"),
    [
        ([[9, 9], [1, 8], [7, 9]], ValueError, ("negative 9", "user 1", "twice")),
        ([[9, 6], [1, 8], [7, 6]], ValueError, ("negative 6", "user 7", "seen")),
        ([[9, 6], [4, 8], [7, 9]], ValueError, ("negative 4", "user 2", "seen")),  # the target
        ([[9, 0], [1, 8], [7, 9]], ValueError, ("negative 0", "user 1", "1 to 9")),
        ([[9, -1], [1, 8], [7, 9]], ValueError, ("negative -1", "user 1", "1 to 9")),
        ([[9, 6], [1, 10], [7, 9]], ValueError, ("negative 10", "user 2", "1 to 9")),
        ([[9, 6], [1, 8]], ValueError, ("negatives", "[3, n]", (2, 2))),
        ([9, 6, 7], ValueError, ("negatives", "[3, n]", (3,))),
        ([[9.0], [8.0], [7.0]], TypeError, ("negatives", "whole numbers", "float64")),
        (None, ValueError, ("negatives", "[3, n]")),
    ],
)
def test_bad_negatives_are_named(tmp_path, negatives, error, named):
    with raises(error, *named):
        dataset(write_tiny(tmp_path)).with_negatives(negatives)


def test_bad_numbers_are_named(tmp_path):
    ds = dataset(write_tiny(tmp_path))
    with raises(ValueError, "num_random", "at least 0", -1):
        ds.with_negatives(GIVEN, num_random=-1)
    with raises(ValueError, "user 7 "):  # has 7, 8, 9, of which two are given
        ds.with_negatives(GIVEN, num_random=2)


def test_items_without_metadata_are_refused(tmp_path):
    items = {i: fields for i, fields in ITEMS.items() if i != "8"}
    with raises(ValueError, "negative 8", "user 2", "metadata"):
        dataset(write_tiny(tmp_path, items=items)).with_negatives(GIVEN)


def test_a_broken_sampler_is_reported(tmp_path, monkeypatch):
    def draw_seen_items(num_items, seen, *_, **options):
        return seen.values[seen.offsets[:-1], None]

    monkeypatch.setattr(data.dataset, "sample_negatives", draw_seen_items)
    with raises(RuntimeError, "negative 3", "user 1", "bug of the sampler"):
        dataset(write_tiny(tmp_path), num_negs=1, num_items=10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_contain_the_negatives(tmp_path, num_workers):
    ds = dataset(write_tiny(tmp_path)).with_negatives(GIVEN)
    by_user = dict(zip([1, 2, 7], GIVEN, strict=True))
    loader = rk.create_dataloader(ds, batch_size=2, shuffle=True, num_workers=num_workers)
    batches = list(loader)
    assert [len(batch["prompts"]) for batch in batches] == [2, 1]
    for batch in batches:
        assert batch["neg_items"] == [by_user[user] for user in batch["user_ids"]]
    with raises(ValueError, "batch_size", "at least 1", 0):
        rk.create_dataloader(ds, batch_size=0)
