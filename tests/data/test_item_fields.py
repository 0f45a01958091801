"""The names of items' fields."""

import datetime
import decimal

import numpy as np
import pytest
import torch

from rl4rec_kernels.data import PromptGenerator, load_item_metadata
from rl4rec_kernels.data.item_fields import as_text
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.index.texts import item_texts
from tests.data.cases import write_tiny
from tests.errors import raises


def test_fields_get_one_name(tmp_path):
    items = {
        "1": {"name": "A", "categories": [["Beauty", "Hair"], ["Beauty", "Oil"]], "year": 1999},
        "2": {"movie_title": "B", "genres": "Drama", "release_year": "19xx", "title": "  "},
        "3": {"title": "C", "name": "kept", "genre": float("nan"), "genres": ["x"], "class": "y"},
    }
    write_tiny(tmp_path, items=items)
    assert load_item_metadata("tiny", tmp_path) == {
        1: {"title": "A", "category": "Beauty, Hair, Oil", "release_year": 1999},
        2: {"title": "B", "category": "Drama"},
        3: {"title": "C", "name": "kept", "category": "x", "class": "y"},
    }


NAN = float("nan")
EMPTY = [NAN, np.float32(NAN), np.datetime64("NaT"), decimal.Decimal("NaN"), np.array(NAN), None]
EMPTY += ["", " \n", b"", [], (), {}, set(), np.array([]), [None, [NAN]], {"a": None}]
EMPTY += [np.ma.masked]
TEXTS = {
    "a, b": [
        *(["a", "b"], ("a", ["b", ["a"]]), {"b", "a"}, frozenset("ba"), {"a": 1, "b": 2}.keys()),
        *(
            np.array(["a", "b"]),
            np.array([["a"], ["b"]]),
            np.array(["a", None, NAN, ["b"]], object),
        ),
        *("a, b", b"a, b", bytearray(b"a, b"), [b"a", "b"], " a, \n b ", np.array("a, b")),
    ],
    "1999": [1999, 1999.0, np.int16(1999), np.float32(1999), np.array([1999, NAN])],
    "0.1": [0.1, np.float32(0.1), np.array([0.1], np.float32), decimal.Decimal("0.1")],
    "True": [True, np.True_],
    "0": [0, 0.0, [0], torch.tensor(0), torch.tensor([0.0])],
    "1": [np.ma.array([1, 2], mask=[0, 1])],
    "inf": [float("inf")],
    "a: 1, c: x, y": [{"a": 1, "b": NAN, "c": ["x", "y"]}],
    "2020-01-01": [datetime.date(2020, 1, 1), np.array(["2020-01-01"], "datetime64[D]")],
}


@pytest.mark.parametrize("text", ["", *TEXTS])
def test_a_value_has_one_text_in_prompts_and_in_the_index(text):
    for value in TEXTS.get(text, EMPTY):
        assert as_text(value) == text
        metadata = {1: {"title": value, "category": ["c"]}}
        assert item_texts(metadata) == {1: f"{text}. c" if text else "c"}
        title = text or "Untitled item"
        assert PromptGenerator(metadata).generate([1]).count(f"1. {title} (category: c)") == 1
        lines = PromptGenerator(metadata, item_template="<{title}|{category}>", missing="")
        assert f"<{text}|c>" in lines.generate([1])
        assert recent_titles(metadata, [1]) == text


def test_values_of_pandas_and_pyarrow():
    pandas = pytest.importorskip("pandas")
    for empty in (pandas.NA, pandas.NaT, pandas.Series([None, NAN]), [pandas.NA]):
        assert as_text(empty) == ""
    for kind in (None, "string", "category"):
        assert as_text(pandas.Series(["a", None, "b"], dtype=kind)) == "a, b"
    assert as_text(pandas.Series([3, None], dtype="Int64")) == "3"
    frame = pandas.DataFrame(
        {"title": [NAN, "t"], "category": [["a", "b"], None], "year": [1999, NAN]}
    )
    items = {i: row for i, row in enumerate(frame.to_dict("records"), 1)}
    assert item_texts(items, ("title", "category", "year")) == {1: "a, b. 1999", 2: "t"}
    pyarrow = pytest.importorskip("pyarrow")
    assert as_text(pyarrow.array(["a", None, "b"])) == "a, b"
    assert as_text(pyarrow.chunked_array([[["a"], ["b"]]])) == "a, b"
    assert as_text(pyarrow.scalar(None, pyarrow.string())) == ""


def test_bytes_that_are_not_text_are_named():
    with raises(ValueError, "item 7", b"caf\xe9", "UTF-8"):
        item_texts({7: {"title": b"caf\xe9"}})
