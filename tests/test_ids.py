"""Packing lists of ids, and rows of ragged ids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds
from rl4rec_kernels.ids import check_layout, merge, pack_ids, prepend, rows_of, select, slice_rows
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


@given(IDS, st.data())
def test_rows_are_selected_sliced_prepended_and_merged(rows, data):
    ids = RaggedIds.from_lists(rows)
    assert rows_of(ids).tolist() == [i for i, row in enumerate(rows) for _ in row]
    positive = select(ids, ids.values > 0)
    assert positive.to_lists() == [[item for item in row if item > 0] for row in rows]
    start = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(start, len(rows)))
    parts = [slice_rows(ids, *bounds) for bounds in ((0, start), (start, end), (end, len(rows)))]
    assert parts[1].to_lists() == rows[start:end]
    assert merge([parts[0], None, *parts[1:]]).to_lists() == rows
    columns = np.arange(len(rows) * 2).reshape(-1, 2)
    expected = [[*new, *row] for new, row in zip(columns.tolist(), rows, strict=True)]
    assert prepend(columns, ids).to_lists() == expected


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_layouts_of_arrays_and_tensors(kind):
    values, offsets = kind([5, 6, 7]), kind([0, 1, 3])
    check_layout("ids", RaggedIds(values, offsets), 2)
    for ids, error, named in (
        (RaggedIds(kind([0.5]), offsets), TypeError, ("ids.values", "float")),
        (RaggedIds(values, kind([False])), TypeError, ("ids.offsets", "bool")),
        (RaggedIds(values[None], offsets), ValueError, ("ids.values", (1, 3))),
        (RaggedIds(values, offsets[1:]), ValueError, ("ids", 2, 1)),
    ):
        with raises(error, *named):
            check_layout("ids", ids, 2)


@pytest.mark.parametrize("offsets", [[], [0], [1, 3], [0, 2], [0, 4], [0, 2, 1, 3]])
def test_bad_offsets_are_named(offsets):
    with raises(ValueError, "seen.offsets", "from 0 to 3"):
        pack_ids("seen", RaggedIds(np.array([5, 6, 7]), np.array(offsets, dtype=np.int64)))


def test_ids_of_2_to_the_63_are_refused_even_where_they_look_like_padding():
    with raises(ValueError, "seen.values", 2**64 - 1):
        pack_ids("seen", RaggedIds(np.array([2**64 - 1], dtype=np.uint64), np.array([0, 1])))
