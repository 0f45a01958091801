"""Which negatives are ranked."""

import logging

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds
from rl4rec_kernels.rewards.negatives import remove_repeats
from tests.errors import raises
from tests.rewards.cases import HISTORIES, NEGATIVES, TARGETS, TEXTS, make


def test_repeats_are_removed_and_reported(service, caplog):
    reward = make(service, reward_type="rank")
    want = reward(["x", "y"], [3, 4], [[], []], [[5, 6], [7]])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        got = reward(["x", "y"], [3, 4], [[], []], [[5, 6, 5, 3, 5], [4, 7, 4]])
        reward(["x", "y"], [3, 4], [[], []], [[5, 6, 5], [7]])
    assert got == want
    assert [record.getMessage() for record in caplog.records] == [
        "2 repeats and 3 targets were removed from neg_items"
    ]
    assert (reward.last_report.duplicates, reward.last_report.targets) == (1, 0)
    reward(["x"], [3], [[]])  # the report is of the last call, whatever that was
    assert (reward.last_report.duplicates, reward.last_report.targets) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5))), min_size=1))
def test_remove_repeats_keeps_the_first_in_order(rows):
    targets = np.array([target for target, _ in rows])
    lists = [negatives for _, negatives in rows]
    kept, report = remove_repeats(RaggedIds.from_lists(lists), targets)
    want = [[i for i in dict.fromkeys(row) if i != t] for t, row in rows]
    assert kept.to_lists() == want
    assert report.targets == sum(row.count(t) for t, row in rows)
    assert report.duplicates + report.targets == sum(map(len, lists)) - sum(map(len, want))


def test_use_negatives_only(service):
    catalog = make(service, reward_type="rank")(TEXTS, TARGETS, HISTORIES)
    ignoring = make(service, reward_type="rank", use_negatives_only=False)
    assert ignoring(TEXTS, TARGETS, HISTORIES, NEGATIVES) == catalog
    # A dataset without negatives has empty lists: the target must not be without competitors.
    assert make(service, reward_type="rank")(TEXTS, TARGETS, HISTORIES, [[], [], []]) == catalog
    strict = make(service, use_negatives_only=True)
    for nothing in (None, [[], [], []]):
        with raises(ValueError, "use_negatives_only=True", "neg_items"):
            strict(TEXTS, TARGETS, HISTORIES, nothing)
    with raises(ValueError, "neg_items", "row 1", "no negatives"):
        strict(TEXTS, TARGETS, HISTORIES, [[1], [17], [2]])
