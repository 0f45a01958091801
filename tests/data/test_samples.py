"""Ratio and temporal splits, and one sample per target."""

from types import SimpleNamespace

import numpy as np
import pytest

from rl4rec_kernels.data import (
    Interactions,
    PromptGenerator,
    RecommendationDataset,
    create_dataloaders,
)
from rl4rec_kernels.ids import RaggedIds
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

ITEMS = {item: {"title": f"title {item}"} for item in range(1, 31)}
ROWS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [3, 1, 4, 5, 9], [2, 7, 1, 8], [5, 6, 7], [9, 8], [4]]
TIMES = [[*range(0, 20, 2)], [1, 3, 5, 7, 30], [11, 12, 13, 14], [16, 18, 19], [17, 17], [3]]


def split(name: str, rows=ROWS, times=TIMES, **options) -> RecommendationDataset:
    found = Interactions(
        np.arange(10, 10 + len(rows)),
        RaggedIds.from_lists(rows),
        times=None if times is None else np.concatenate(times).astype(float),
    )
    return RecommendationDataset(
        "own", ITEMS, PromptGenerator(ITEMS), name, interactions=found, **options
    )


def samples(data: RecommendationDataset) -> list[tuple[int, list[int], int | list[int]]]:
    got = [(s["user_id"], s["history"], s["target"]) for s in data]
    assert data.histories.to_lists() == [history for _, history, _ in got]
    return got


def test_a_ratio_split_has_several_targets():
    train, valid, test = (
        split(n, split_by="ratio", ratios=(6, 2, 2)) for n in ("train", "valid", "test")
    )
    one = ROWS[0]
    assert samples(train) == [(10, one[:5], 6), (11, [3, 1], 4), (12, [2], 7)]
    # Users with few items get one for the test first, as in RecBole.
    assert samples(valid) == [
        (10, one[:6], [7, 8]), (11, [3, 1, 4], [5]), (12, [2, 7], [1]), (13, [5], [6])
    ]  # fmt: skip
    assert samples(test) == [
        (10, one[:8], [9, 10]), (11, [3, 1, 4, 5], [9]), (12, [2, 7, 1], [8]),
        (13, [5, 6], [7]), (14, [9], [8]),
    ]  # fmt: skip
    assert isinstance(test.targets, RaggedIds)
    assert train.targets.dtype == np.int64
    assert test.seen.to_lists()[0] == one


def recbole_counts(total: int, ratios: list[float]) -> list[int]:
    """The rounding that RecBole 1.2 documents, one user at a time."""
    counts = [int(ratio * total) for ratio in ratios]
    counts[0] = total - counts[1] - counts[2]
    for part in (2, 1):
        if counts[0] > 1 and 0 < ratios[part] * total < 1:
            counts[part] += 1
            counts[0] -= 1
    return counts


@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.6, 0.15, 0.25)])
def test_ratios_are_rounded_as_by_recbole(ratios):
    rows = [list(range(1, n + 1)) for n in range(1, 31)]
    wanted = [recbole_counts(len(row), list(ratios)) for row in rows]
    for part, name in enumerate(("valid", "test"), 1):
        if not ratios[part]:
            with raises(ValueError, f"'{name}'", "ratio"):
                split(name, rows, None, split_by="ratio", ratios=ratios)
            continue
        got = {
            s["user_id"]: len(s["target"])
            for s in split(name, rows, None, split_by="ratio", ratios=ratios)
        }
        assert got == {10 + i: c[part] for i, c in enumerate(wanted) if c[part] and sum(c[:part])}


def test_a_temporal_split_has_the_same_cuts_for_all():
    cuts = (12.0, 17.0)
    train, valid, test = (split(n, split_by="time", cuts=cuts) for n in ("train", "valid", "test"))
    one = ROWS[0]
    assert samples(train) == [(10, one[:5], 6), (11, [3, 1, 4], 5)]  # of users with two items
    assert samples(valid) == [(10, one[:6], [7, 8, 9]), (12, [2], [7, 1, 8])]
    assert samples(test) == [(10, one[:9], [10]), (11, [3, 1, 4, 5], [9]), (13, [5], [6, 7])]
    # By default the cuts are where the ratios of all interactions are.
    ordered = np.sort(np.concatenate(TIMES))
    at = float(ordered[15]), float(ordered[20])
    for name in ("train", "valid", "test"):
        default = split(name, split_by="time", ratios=(6, 2, 2))
        assert samples(default) == samples(split(name, split_by="time", cuts=at))


def test_cuts_may_be_dates():
    day = 86400.0
    times = [[day * n for n in range(len(row))] for row in ROWS]
    dates = split("test", times=times, split_by="time", cuts=("1970-01-03", "1970-01-04 00:00:00"))
    assert samples(dates)[0] == (10, [1, 2, 3], [4, 5, 6, 7, 8, 9, 10])


@pytest.mark.parametrize(
    "rule", [{}, {"split_by": "ratio"}, {"split_by": "time", "ratios": (6, 2, 2)}]
)
def test_every_target_can_be_a_sample(rule):
    for name in ("train", "valid", "test"):
        data, several = split(name, augment=True, **rule), split(name, **rule)
        got = samples(data)
        rows = {10 + i: row for i, row in enumerate(ROWS)}
        assert all(
            rows[user][: len(history) + 1] == [*history, target] for user, history, target in got
        )
        assert data.seen.to_lists() == [rows[user] for user, *_ in got]
        targets = {user: [t for u, _, t in got if u == user] for user, *_ in got}
        for user, history, target in samples(several):
            last = [target] if isinstance(target, int) else target
            assert targets[user][-len(last) :] == last
            if name == "train":
                assert targets[user] == [*history[1:], target]
        assert (
            data.item_counts.tolist()
            == np.bincount(
                np.concatenate(
                    [
                        rows[u][: len(rows[u]) - rows[u][::-1].index(t[-1]) - 1]
                        for u, t in targets.items()
                    ]
                ),
                minlength=31,
            ).tolist()
        )


def test_samples_of_a_user_have_different_negatives(monkeypatch):
    options = {"num_negs": 8, "num_items": 31}
    every, one = split("train", augment=True, **options), split("train", **options)
    rows = np.flatnonzero(every.user_ids == 10)
    assert len({tuple(row) for row in every.negatives[rows].tolist()}) == len(rows) == 7
    # The last sample of a user is that of a dataset with one sample per user.
    assert every.negatives[rows[-1]].tolist() == one.negatives[0].tolist()
    for row, seen in zip(every.negatives, every.seen.to_lists(), strict=True):
        assert not set(row.tolist()) & set(seen)
    again = every.with_negatives(every.negatives[:, :2], num_random=3)
    assert again.negatives.shape == (len(every), 5)
    monkeypatch.setattr("rl4rec_kernels.data.samples._CHUNK", 15)  # few users at a time
    assert np.array_equal(split("train", augment=True, **options).negatives, every.negatives)
    with raises(ValueError, "user 10", "21"):
        split("train", augment=True, num_negs=21, num_items=31)


def test_repeated_targets_are_one():
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 1]]
    data = split("test", rows, None, split_by="ratio", ratios=(0.6, 0.1, 0.3))
    assert data[0]["target"] == [9, 1]
    assert (data.report.repeat_targets, data.report.repeat_histories) == (1, 0)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"split_by": "random"}, ValueError, ("split_by", "leave_one_out", "'random'")),
        ({"split_by": "ratio", "ratios": (1, 1)}, ValueError, ("ratios", "(1, 1)")),
        ({"split_by": "ratio", "ratios": (0, 1, 1)}, ValueError, ("ratios[0]", "(0, 1, 1)")),
        ({"split_by": "ratio", "ratios": (1, -1, 1)}, ValueError, ("ratios[1]", "-1")),
        ({"split_by": "ratio", "ratios": (1, "a", 1)}, TypeError, ("ratios[1]", "'a'")),
        ({"split_by": "ratio", "cuts": (1, 2)}, ValueError, ("cuts", "split_by='time'")),
        ({"split_by": "time", "cuts": (2, 1)}, ValueError, ("cuts", "(2, 1)")),
        ({"split_by": "time", "cuts": 5}, ValueError, ("cuts", "5")),
        ({"split_by": "time", "cuts": (1, "soon")}, ValueError, ("cuts[1]", "'soon'")),
        ({"split_by": "time", "cuts": (1, None)}, TypeError, ("cuts[1]", "None")),
        ({"split_by": "time", "times": None}, ValueError, ("split_by='time'",)),
        ({"augment": "no"}, ValueError, ("augment", "'no'")),
    ],
)
def test_bad_options_are_named(options, error, named):
    with raises(error, *named):
        split("test", **options)


def test_files_without_times_cannot_be_split_by_time(tmp_path):
    with raises(ValueError, "split_by='time'"):
        dataset(write_tiny(tmp_path), split_by="time")
    assert len(dataset(write_tiny(tmp_path), "valid", split_by="ratio")) == 3


def test_loaders_take_the_same_options(tmp_path):
    args = {"dataset_name": "tiny", "data_dir": write_tiny(tmp_path), "batch_size": 9}
    rule = {"split_by": "ratio", "ratios": (2, 1, 1), "augment": True}
    loaders = create_dataloaders(SimpleNamespace(**args, **rule))
    train, test = loaders.train.dataset, loaders.test.dataset
    assert (len(train), train.targets.ndim) == (6, 1)
    assert next(iter(loaders.test))["targets"] == test.targets.to_lists() == [[5], [2], [6]]


def test_exports_have_several_targets():
    pytest.importorskip("datasets")
    from rl4rec_kernels import export_dataset
    from rl4rec_kernels.data import read_label

    data = split("test", split_by="ratio", ratios=(6, 2, 2))
    rows = export_dataset(data, "trl")
    assert rows["target"][:2] == [[9, 10], [9]]
    labels = [read_label(label) for label in export_dataset(data, "slime")["label"]]
    assert [label.target for label in labels] == [[9, 10], 9, 8, 7, 8]
