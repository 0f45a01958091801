"""The strict reader of ids, whatever a trainer's or a table's column is made of."""

import decimal

import numpy as np
import pytest
import torch

from rl4rec_kernels.data.labels import (
    item_id,
    item_ids,
    read_label,
    read_rows,
    read_targets,
    write_label,
)
from rl4rec_kernels.ids import RaggedIds
from tests.errors import raises

NAN = float("nan")
IDS = [3, 3.0, np.int8(3), np.uint64(3), np.float16(3), np.array(3), np.array([3.0])]
IDS += [torch.tensor(3), torch.tensor([3.0]), decimal.Decimal(3), np.array([3], object)]
BAD = [3.9, np.float32(3.5), True, np.True_, torch.tensor(True), "3", b"3", float("inf"), 2.0**60]
BAD += [np.float16(0.5), np.datetime64("2020-01-01"), [[3]], {3}, 3j]
MISSING = [None, NAN, np.float32(NAN), np.datetime64("NaT"), decimal.Decimal("NaN"), np.array(NAN)]


def test_an_id_is_a_whole_number_of_any_library():
    for value in IDS:
        item = item_id("target", value)
        assert (item, type(item)) == (3, int)
        assert read_label({"target": value, "history": [value]}) == (3, [3], [])
        assert write_label(value) == write_label(3)
    assert read_label(3.0) == read_label("3.0") == read_label(np.array([3])[0]) == (3, [], [])


@pytest.mark.parametrize("value", [*BAD, *MISSING], ids=repr)
def test_other_values_are_refused_by_name(value):
    with raises(TypeError, "target[7]", "item id"):
        item_id("target[7]", value)
    with raises((TypeError, ValueError), "labels[2]", "target"):
        read_label({"target": value}, "labels[2]")
    if not any(value is missing for missing in MISSING):
        with raises(TypeError, "labels[2]", "neg_items", "item ids"):
            read_label({"target": 3, "neg_items": [5, value]}, "labels[2]")
    with raises((TypeError, ValueError)):
        write_label(value)


@pytest.mark.parametrize("values", [[3, 4], (3, 4), np.array([3, 4]), torch.tensor([3.0, 4.0])])
def test_a_label_may_have_several_targets_but_an_id_is_one(values):
    with raises(TypeError, "target[7]", "item id"):
        item_id("target[7]", values)
    assert read_label({"target": values}) == ([3, 4], [], [])
    assert read_label(write_label(values, [1])) == ([3, 4], [1], [])


@pytest.mark.parametrize("values", [[], [3, "4"], [3, 4.5], [NAN, None]])
def test_several_targets_are_ids(values):
    with raises((TypeError, ValueError), "labels[2]", "target"):
        read_label({"target": values}, "labels[2]")


def test_the_value_is_shown():
    with raises(TypeError, "target", "3.9"):
        read_label({"target": 3.9})
    with raises(TypeError, "history", "0.5", "at 1"):
        read_label({"target": 3, "history": [1, 0.5]})
    with raises(ValueError, "label", "target"):
        read_label('{"target": NaN}')


def test_lists_may_be_arrays_and_padded():
    padded = np.array([[1, 2, NAN], [4, NAN, NAN]])
    assert [item_ids("history", row) for row in padded] == [[1, 2], [4]]
    for empty in (*MISSING, [], (), np.array([]), [None], torch.tensor([])):
        assert item_ids("history", empty) == []
    assert item_ids("history", [None, 5, NAN, 6.0]) == [5, 6]
    for rows in ("12", 5, {1: 2}, {1}, iter([1])):
        with raises(TypeError, "history", "list of item ids"):
            item_ids("history", rows)


def test_columns_of_tables():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    series = pandas.Series([3, None, 5], index=[7, 7, 0])  # floats, and not in the order of rows
    assert [item_ids("history", [item]) for item in series] == [[3], [], [5]]
    assert item_ids("history", series) == item_ids("h", series.astype("Int64")) == [3, 5]
    assert item_ids("history", pyarrow.array([3, None, 5])) == [3, 5]
    assert item_ids("history", pyarrow.scalar([3, None])) == [3]
    assert item_id("target", pyarrow.scalar(3)) == item_id("target", series[:1]) == 3
    for missing in (pandas.NA, pandas.NaT, pyarrow.scalar(None, pyarrow.int64())):
        assert item_ids("history", missing) == []
        with raises(TypeError, "target"):
            item_id("target", missing)
    lists = pyarrow.array([[1, 2], None, [4.0]])
    for rows in (lists, lists.to_pandas(), pyarrow.chunked_array([lists])):
        assert read_rows("histories", rows, 3).to_lists() == [[1, 2], [], [4]]
    assert read_targets(pandas.Series([3.0, 4.0]), 2).tolist() == [3, 4]


def test_columns_of_a_call():
    for targets in ([3, 4.0], np.array([3.0, 4.0]), torch.tensor([3.0, 4.0]), (np.int8(3), 4)):
        assert read_targets(targets, 2).tolist() == [3, 4]
    with raises(TypeError, "targets[1]", "3.9"):
        read_targets([3, 3.9], 2)
    with raises(TypeError, "targets[0]", "nan"):
        read_targets(np.array([NAN, 3]), 2)
    rows = read_rows("neg_items", np.array([[1, 2, NAN], [4, -1, 5]]), 2)
    assert rows.to_lists() == [[1, 2], [4, 5]]
    with raises(TypeError, "neg_items[1]", "2.5"):
        read_rows("neg_items", [[1], [2.5]], 2)
    for bad in (RaggedIds(np.array([0.5]), np.array([0, 1])), "ab", 5):
        with raises(TypeError, "neg_items"):
            read_rows("neg_items", bad, 1)
