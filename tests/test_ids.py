"""Packing lists of ids, and rows of ragged ids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds
from rl4rec_kernels.ids import (
    as_column,
    as_ragged,
    check_inside,
    check_layout,
    check_valid_items,
    merge,
    pack_ids,
    prepend,
    rows_of,
    select,
    slice_rows,
)
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


@given(st.lists(st.lists(st.integers(-1, 9), max_size=5), max_size=6))
def test_padding_is_left_out(rows):
    want = [[item for item in row if item >= 0] for row in rows]
    for given_rows in (rows, [np.array(row, np.int64) for row in rows]):
        assert as_ragged("ids", given_rows, len(rows)).to_lists() == want


VALID = np.array([False, True, True, False, True])


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([[1], [], [4, 2, 5]], ("ids", "5 in row 2", "below 5")),
        ([[1], [2, -7, 9]], ("ids", "-7 in row 1")),
        ([[4, 3]], ("ids", "3 in row 0", "not an item")),
        ([[2**40]], ("ids", f"{2**40} in row 0", "below 5")),
    ],
)
def test_bad_items_are_named_with_their_rows(rows, named):
    ids = RaggedIds.from_lists(rows)
    with raises(IndexError, *named):
        check_valid_items("ids", ids, VALID)
    if 3 not in rows[0]:
        with raises(IndexError, *named):
            check_inside("ids", ids, len(VALID))


def test_bad_items_of_a_column_and_below_padding_are_named_with_their_rows():
    with raises(IndexError, "targets", "0 in row 2", "not an item"):
        check_valid_items("targets", as_column("targets", [1, 2, 0], 3), VALID)
    for rows in ([[1], [-2, 3]], [np.array([1]), np.array([-2, 3])]):
        with raises(IndexError, "ids", "-2 in row 1"):
            as_ragged("ids", rows, 2)
