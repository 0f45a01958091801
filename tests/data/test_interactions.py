"""Interactions in sequential_data.txt."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels.data import load_interactions
from rl4rec_kernels.data.interactions import read_sequences
from tests.data.cases import ITEMS, SEQUENCES, write
from tests.errors import raises


@pytest.mark.parametrize("packed", [False, True])
def test_sequences(tmp_path, packed):
    content = SEQUENCES.replace("\n", " \r\n").replace(" ", "\t").encode() + b"\n  \n"
    name = "sequential_data.txt" + ".gz" * packed
    write(tmp_path, **{name: gzip.compress(content) if packed else content})
    got = load_interactions("tiny", tmp_path)
    assert got.user_ids.tolist() == [1, 2, 7]
    assert got.sequences.to_lists() == [[3, 1, 2, 4, 5], [5, 4, 3, 2], [1, 2, 3, 4, 5, 6]]
    assert got.user_ids.dtype == got.sequences.values.dtype == got.sequences.offsets.dtype == "i8"
    assert got.item_tokens is None


@given(
    st.dictionaries(
        st.integers(0, 10**18 - 1),
        st.lists(st.integers(1, 10**18 - 1), min_size=1, max_size=30),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None)
def test_sequences_round_trip(tmp_path_factory, users):
    path = tmp_path_factory.mktemp("round") / "sequential_data.txt"
    path.write_text("".join(f"{u} {' '.join(map(str, s))}\n" for u, s in users.items()))
    got = read_sequences(path)
    assert dict(zip(got.user_ids.tolist(), got.sequences.to_lists(), strict=True)) == users
    assert got.user_ids.tolist() == list(users)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("1 2 3\n2 x 4\n", ("line 2", "'x'")),
        ("1 2 3\n\n2 -4 5\n", ("line 3", "'-4'")),
        ("1 2.0\n", ("line 1", "'2.0'")),
        ("1 1_0\n", ("line 1", "'1_0'")),
        ("1 ²\n", ("line 1", "'²'")),
        ("-1 2 3\n", ("line 1", "'-1'")),
        ("1 " + "9" * 5000, ("line 1", f"'{'9' * 40}'")),
        ("1 2 0 3\n", ("line 1", "item id 0", "padding")),
        ("1 2 3\n2\n", ("line 2", "user 2", "no items")),
        ("1 2 3\n4 5\n1 6\n", ("line 3", "user 1", "in line 1")),
        ("", ("empty",)),
        ("\n \n", ("empty",)),
    ],
)
def test_malformed_sequences(tmp_path, content, named):
    write(tmp_path, sequential_data__txt=content)
    with raises(ValueError, "sequential_data.txt", *named):
        load_interactions("tiny", tmp_path)


def test_no_interactions(tmp_path):
    write(tmp_path, item_metadata__json=json.dumps(ITEMS))
    with raises(FileNotFoundError, "sequential_data.txt", "tiny.inter"):
        load_interactions("tiny", tmp_path)
