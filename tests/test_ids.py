"""Packing lists of ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds
from tests.errors import raises

IDS = st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), max_size=6)


@given(IDS, st.sampled_from([list, tuple, lambda row: np.array(row, dtype=np.int64)]))
def test_lists_round_trip(rows, kind):
    ragged = RaggedIds.from_lists(kind(row) for row in rows)
    assert ragged.to_lists() == rows
    assert ragged.values.dtype == ragged.offsets.dtype == np.int64
    assert ragged.offsets.shape == (len(rows) + 1,)


def test_dtypes_may_differ_from_row_to_row():
    rows = [np.array([2**62 + 1], np.uint64), np.array([-1], np.int8), [3], (), np.array([])]
    assert RaggedIds.from_lists(rows).to_lists() == [[2**62 + 1], [-1], [3], [], []]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ([1.0], TypeError),
        ([True], TypeError),
        (["1"], TypeError),
        ([[1]], TypeError),
        ([None], TypeError),
        (5, TypeError),
        ([2**63], ValueError),
        ([2**64], TypeError),
    ],
)
def test_bad_rows_are_named(row, error):
    with raises(error, "rows[1]"):
        RaggedIds.from_lists([[1], row])
