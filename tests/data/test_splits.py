"""The leave-one-out split, its report, and seeds per split."""

import numpy as np
import pytest

from rl4rec_kernels.data import split_seed
from rl4rec_kernels.data.splits import choose_rows
from tests.data.cases import ITEMS, SEQUENCES, dataset, write_tiny
from tests.errors import raises


@pytest.mark.parametrize(
    ("split", "histories", "targets"),
    [
        ("train", [[3, 1], [5], [1, 2, 3]], [2, 4, 4]),
        ("valid", [[3, 1, 2], [5, 4], [1, 2, 3, 4]], [4, 3, 5]),
        ("test", [[3, 1, 2, 4], [5, 4, 3], [1, 2, 3, 4, 5]], [5, 2, 6]),
    ],
)
def test_leave_one_out(tmp_path, split, histories, targets):
    ds = dataset(write_tiny(tmp_path), split)
    assert len(ds) == 3
    assert ds.histories.to_lists() == histories
    assert ds.targets.tolist() == targets
    assert ds.user_ids.tolist() == [1, 2, 7]
    assert [s["history"] for s in ds] == histories
    assert ds.targets.dtype == ds.user_ids.dtype == ds.negatives.dtype == np.int64
    assert ds.negatives.shape == (3, 0)
    assert ds.report.clean
    assert ds.num_items == 10


def test_short_users_are_reported(tmp_path, caplog):
    root = write_tiny(tmp_path, "1 1\n2 1 2\n3 1 2 3\n4 1 2 3 4\n5 1 2 3 4 5\n")
    samples = {split: dataset(root, split) for split in ("train", "valid", "test")}
    assert samples["train"].user_ids.tolist() == [4, 5]
    assert samples["valid"].user_ids.tolist() == [3, 4, 5]
    assert samples["test"].user_ids.tolist() == [2, 3, 4, 5]
    assert [ds.report.short_users for ds in samples.values()] == [3, 2, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "tiny train: 2 samples of 5 users with 15 interactions" in caplog.text
    assert "3 users left out: too few items for this split" in caplog.text


def test_no_user_left(tmp_path):
    root = write_tiny(tmp_path, "1 1 2 3\n2 1 2\n")
    with raises(ValueError, "'train'", "4 items", "has 3", "at most 3"):
        dataset(root, "train")
    with raises(ValueError, "metadata", "at most 0"):
        dataset(write_tiny(tmp_path, items={"77": {"title": "other"}}), "test")


def test_repeats_are_kept_and_reported(tmp_path, caplog):
    root = write_tiny(tmp_path, "1 1 2 1 2 3\n2 1 2 3 2 5\n3 1 2 3 4 5\n")
    ds = dataset(root, "test", num_negs=2, num_items=10)
    assert ds[0]["history"] == [1, 2, 1, 2]
    assert (ds.report.repeat_histories, ds.report.repeat_targets) == (2, 0)
    ds = dataset(root, "valid")
    assert (ds.report.repeat_histories, ds.report.repeat_targets) == (1, 2)
    assert "2 targets are also in their history; kept as they are" in caplog.text
    assert not any(item in ds[0]["history"] for item in ds[0]["neg_items"])


def test_items_without_metadata_are_removed_and_reported(tmp_path, caplog):
    items = {i: m for i, m in ITEMS.items() if i not in ("4", "6")}
    ds = dataset(write_tiny(tmp_path, SEQUENCES, items), "test")
    assert ds.histories.to_lists() == [[3, 1, 2], [5, 3], [1, 2, 3]]
    assert ds.targets.tolist() == [5, 2, 5]
    assert (ds.report.unknown_interactions, ds.report.unknown_items) == (4, 2)
    assert "4 interactions removed: 2 items have no metadata" in caplog.text
    assert [s["prompt"] for s in ds]  # every prompt can be made


def test_split_seeds_differ_and_stay():
    seeds = {split_seed(s, name) for s in range(100) for name in ("train", "valid", "test")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Fixed values: negatives must stay the same after an upgrade.
    assert [split_seed(42, name) for name in ("train", "valid", "test")] == [
        5732826375231505755,
        7829184764001561178,
        5910823727984653262,
    ]


def test_rows_are_chosen_in_order():
    chosen = choose_rows(100, 10, seed=1)
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose_rows(100, 10, seed=1))
    for num_wanted in (None, 3, 4):
        assert choose_rows(3, num_wanted, seed=1).tolist() == [0, 1, 2]
