"""Groups of users."""

import numpy as np

from rl4rec_kernels.evaluation import target_popularity
from rl4rec_kernels.evaluation.groups import group_rows
from tests.errors import raises


def test_numbers_are_split_into_ranges_with_equal_numbers_of_users():
    values = np.random.default_rng(0).permutation(100) / 4
    rows = group_rows({"a": values}, 100, 4)["a"]
    assert [len(members) for members in rows.values()] == [25, 25, 25, 25]
    assert next(iter(rows)) == "0–6"
    for label, members in rows.items():
        low, high = map(float, label.split("–"))
        assert values[members].min() == low
        assert values[members].max() == high
    skewed = group_rows({"a": np.array([4] * 90 + list(range(5, 15)))}, 100, 4)["a"]
    assert list(skewed) == ["4", "5–14"]  # equal numbers stay together
    few = group_rows({"a": np.array([3, 1, 3])}, 3, 4)["a"]
    assert {label: members.tolist() for label, members in few.items()} == {"1": [1], "3": [0, 2]}


def test_target_popularity():
    assert target_popularity([2, 0], [5, 6, 7]).tolist() == [7, 5]
    with raises(IndexError, "targets", "item 3"):
        target_popularity([3], [5, 6, 7])
