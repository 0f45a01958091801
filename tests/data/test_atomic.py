"""RecBole's atomic files."""

import gzip

import pytest

from rl4rec_kernels.data import load_interactions, load_item_metadata
from tests.data.cases import INTER, ITEM, write, write_tiny
from tests.errors import raises


@pytest.mark.parametrize("packed", [False, True])
def test_atomic_files(tmp_path, packed):
    pack = gzip.compress if packed else bytes
    ending = ".gz" * packed
    write(
        tmp_path,
        **{f"tiny.inter{ending}": pack(INTER.encode()), f"tiny.item{ending}": pack(ITEM.encode())},
    )
    got = load_interactions("tiny", tmp_path)
    metadata = load_item_metadata("tiny", tmp_path)
    # Numbered by code point over both files; v is an item without interactions.
    assert got.item_tokens == ["", "v", "w", "x", "y", "z"]
    assert got.user_tokens == ["", "ann", "bob"]
    assert {i: m["token"] for i, m in metadata.items()} == dict(enumerate("vwxyz", 1))
    assert got.user_ids.tolist() == [1, 2]
    names = [[got.item_tokens[i] for i in row] for row in got.sequences.to_lists()]
    # Sorted by time; equal times keep the order of the file.
    assert names == [["y", "z", "x", "w"], ["x", "y", "z"]]
    assert metadata[3] == {
        "token": "x",
        "title": "X Men",
        "release_year": "2000",
        "category": "Action, Drama",
    }
    assert metadata[5] == {"token": "z", "title": "Zulu"}  # no year, no class


def test_atomic_ids_do_not_depend_on_the_order_of_lines(tmp_path):
    def reverse(text):
        head, *rows = text.splitlines()
        return "\n".join([head, *reversed(rows)])

    write(tmp_path, "a", a__inter=INTER, a__item=ITEM)
    write(tmp_path, "b", b__inter=reverse(INTER), b__item=reverse(ITEM))
    assert load_item_metadata("a", tmp_path) == load_item_metadata("b", tmp_path)
    a, b = load_interactions("a", tmp_path), load_interactions("b", tmp_path)
    assert (a.item_tokens, a.user_tokens) == (b.item_tokens, b.user_tokens)


def test_atomic_numbers_sort_as_numbers(tmp_path):
    rows = "".join(f"{u}\t{i}\n" for u, i in [(10, 9), (9, 100), (10, "09"), (9, 11)])
    write(tmp_path, tiny__inter="user_id:token\titem_id:token\n" + rows)
    got = load_interactions("tiny", tmp_path)
    assert got.item_tokens == ["", "09", "9", "11", "100"]
    assert got.user_tokens == ["", "9", "10"]
    assert got.sequences.to_lists() == [
        [4, 3],
        [2, 1],
    ]  # without timestamps, in the order of the file


@pytest.mark.parametrize(
    ("inter", "named"),
    [
        ("", ("empty", "first line")),
        ("user_id\titem_id\n1\t2\n", ("line 1", "header")),
        ("user_id:token\tuser_id:token\n1\t2\n", ("line 1", "header")),
        ("user_id:int\titem_id:token\n1\t2\n", ("line 1", "header")),
        ("user_id:token\titem_id_list:token_seq\n1\t2 3\n", ("item_id", "user_id")),
        ("user_id:token\titem_id:token\n", ("no rows",)),
        ("user_id:token\titem_id:token\n1\t2\n1 3\n", ("line 3", "1 cells", "2 columns")),
        ("user_id:token\titem_id:token\n1\t2\n\n1\t\n", ("line 4", "item_id", "empty")),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tx\n", ("line 2", "'x'")),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnan\n", ("line 2", "'nan'")),
    ],
)
def test_malformed_atomic_interactions(tmp_path, inter, named):
    write(tmp_path, tiny__inter=inter, tiny__item=ITEM)
    with raises(ValueError, "tiny.inter", *named):
        load_interactions("tiny", tmp_path)


def test_malformed_atomic_items(tmp_path):
    write(tmp_path, tiny__inter=INTER)
    with raises(FileNotFoundError, "tiny.inter", "tiny.item"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, tiny__item=ITEM + "x\tagain\t2000\tDrama\n")
    with raises(ValueError, "tiny.item", "line 7", "item 'x'"):
        load_item_metadata("tiny", tmp_path)


def test_sequential_data_takes_precedence_over_atomic_files(tmp_path):
    write_tiny(tmp_path)
    write(tmp_path, tiny__inter=INTER, tiny__item=ITEM)
    assert load_interactions("tiny", tmp_path).item_tokens is None
    assert "token" not in load_item_metadata("tiny", tmp_path)[1]
