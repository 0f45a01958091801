"""Where files are looked for, in which forms they are read, and what is said of bad ones."""

import gzip
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels.data import load_interactions, load_item_metadata
from rl4rec_kernels.data.interactions import read_sequences
from tests.data.cases import INTER, ITEM, ITEMS, SEQUENCES, write, write_tiny


def test_directory_resolution(tmp_path, monkeypatch):
    write_tiny(tmp_path)
    monkeypatch.delenv("RL4REC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="data does not exist"):
        load_item_metadata("tiny")
    (tmp_path / "data").symlink_to(tmp_path)
    assert len(load_item_metadata("tiny")) == 9  # ./data

    other = tmp_path / "other"
    other.mkdir()
    write_tiny(other, items={"1": {"title": "only"}})
    monkeypatch.setenv("RL4REC_DATA", str(other))
    assert len(load_item_metadata("tiny")) == 1  # the variable goes before ./data
    assert len(load_item_metadata("tiny", tmp_path)) == 9  # the argument goes before both


def test_missing_dataset_names_those_that_are_there(tmp_path):
    write_tiny(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"it contains tiny.*data_dir=.*RL4REC_DATA"):
        load_item_metadata("beuaty", tmp_path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/abs"])
def test_name_must_be_plain(tmp_path, name):
    with pytest.raises(ValueError, match="plain name"):
        load_interactions(name, tmp_path)


def test_name_must_be_text(tmp_path):
    with pytest.raises(TypeError, match="must be a string, got 3"):
        load_interactions(3, tmp_path)


JSON_FORMS = {
    "dict": json.dumps(ITEMS),
    "list": json.dumps([{"item_id": int(i), **m} for i, m in ITEMS.items()]),
    "list with text ids": json.dumps([{"id": i, **m} for i, m in ITEMS.items()]),
    "lines": "\n".join(json.dumps({"item_id": int(i), **m}) for i, m in ITEMS.items()) + "\n",
    "byte order mark": "\ufeff" + json.dumps(ITEMS),
}
JSON_NAMES = [
    "item_metadata.json",
    "item_metadata.jsonl",
    "meta.json",
    "metadata.json",
    "meta_Beauty.json",
    "meta.jsonl",
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", JSON_NAMES)
@pytest.mark.parametrize("form", JSON_FORMS)
def test_metadata_forms_and_names(tmp_path, form, name, packed):
    content = JSON_FORMS[form].encode()
    write(tmp_path, **{name + ".gz" * packed: gzip.compress(content) if packed else content})
    metadata = load_item_metadata("tiny", tmp_path)
    assert list(metadata) == list(range(1, 10))
    assert metadata[1] == {"title": "Soap {mild}", "brand": "Acme", "category": "Bath, Soap"}
    assert metadata[3] == {"brand": "Acme"}
    assert metadata[4] == {"title": "Comb", "price": 2.5}  # a null brand is no brand
    assert metadata[5] == {"title": "Brush red"}


def test_one_item_in_a_lines_file(tmp_path):
    write(tmp_path, meta__jsonl='{"item_id": 4, "title": "T"}\n')
    assert load_item_metadata("tiny", tmp_path) == {4: {"title": "T"}}


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


def test_padding_item_is_left_out_and_said(tmp_path, caplog):
    write_tiny(tmp_path, items={"0": {"title": "pad"}, **ITEMS})
    assert 0 not in load_item_metadata("tiny", tmp_path)
    assert "item id 0 is left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("3", "holds a int"),
        ("{}", "describes no item"),
        ("[]", "describes no item"),
        ('{"1": "soap"}', "item '1' is 'soap', not an object"),
        ('{"one": {}}', "id of item 'one' is 'one'"),
        ('{"-1": {}}', "id of item '-1'"),
        ('{"' + "9" * 30 + '": {}}', "id of item"),
        ('{"1": {}, "1": {}}', "'1' stands twice"),
        ('{"1": {}, "01": {}}', "item '01' has id 1, which another item already has"),
        ('[{"title": "no id"}]', "id of entry 1 is None"),
        ('[{"item_id": true}]', "id of entry 1 is True"),
        ('[{"item_id": 1.5}]', "id of entry 1 is 1.5"),
        ("[4]", "entry 1 is '4'"),
        ('[{"id": 1}, {"id": 1}]', "entry 2 has id 1"),
        ('{"id": 1}\n{"id": 2', "line 2"),
        ('{"id": 1}\n{"id": 2, "id": 3}', "line 2.*'id' stands twice"),
    ],
)
def test_malformed_metadata(tmp_path, content, message):
    write(tmp_path, item_metadata__json=content)
    with pytest.raises(ValueError, match=rf"(?s)item_metadata\.json.*{message}"):
        load_item_metadata("tiny", tmp_path)


def test_pickle_is_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    write(tmp_path, item_metadata__pkl=pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"item_metadata\.pkl is a pickle.*Convert it to JSON"):
        load_item_metadata("tiny", tmp_path)


def test_no_metadata_and_several(tmp_path):
    write(tmp_path, sequential_data__txt=SEQUENCES)
    with pytest.raises(FileNotFoundError, match="has no item metadata: put there item_metadata"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, meta_a__json="{}", meta_b__json="{}")
    with pytest.raises(ValueError, match=r"several metadata files \(meta_a.json, meta_b.json\)"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, item_metadata__json='{"1": {"title": "A"}}')  # the exact name decides
    assert load_item_metadata("tiny", tmp_path) == {1: {"title": "A"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "no complete gzip file"),
        (gzip.compress(b'{"1": {}}')[:-9], "no complete gzip file"),
        (gzip.compress(b'{"1": {"title": "\xff"}}'), "not UTF-8"),
    ],
)
def test_broken_bytes(tmp_path, content, message):
    write(tmp_path, item_metadata__json__gz=content)
    with pytest.raises(ValueError, match=rf"item_metadata\.json\.gz is {message}"):
        load_item_metadata("tiny", tmp_path)


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
    ("content", "message"),
    [
        ("1 2 3\n2 x 4\n", "line 2: 'x' is no id"),
        ("1 2 3\n\n2 -4 5\n", "line 3: '-4' is no id"),
        ("1 2.0\n", "line 1: '2.0' is no id"),
        ("1 1_0\n", "line 1: '1_0' is no id"),
        ("1 ²\n", "line 1: '²' is no id"),
        ("-1 2 3\n", "line 1: '-1' is no id"),
        ("1 " + "9" * 5000, "line 1: '9+' is no id"),
        ("1 2 0 3\n", "line 1: item id 0 is kept for padding"),
        ("1 2 3\n2\n", "line 2: user 2 has no items"),
        ("1 2 3\n4 5\n1 6\n", "line 3: user 1 already stands in line 1"),
        ("", "is empty"),
        ("\n \n", "is empty"),
    ],
)
def test_malformed_sequences(tmp_path, content, message):
    write(tmp_path, sequential_data__txt=content)
    with pytest.raises(ValueError, match=rf"sequential_data\.txt.*{message}"):
        load_interactions("tiny", tmp_path)


def test_line_ends_of_an_old_macintosh(tmp_path):
    write(tmp_path, sequential_data__txt="1 2 3\r2 4 5\r")
    assert load_interactions("tiny", tmp_path).sequences.to_lists() == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[" + "9" * 5000 + "]", '{"1": {}}\n' + "[" * 100_000]
)
def test_metadata_that_python_cannot_parse_is_named(tmp_path, content):
    write(tmp_path, item_metadata__json=content)
    with pytest.raises(ValueError, match=r"item_metadata\.json.*write"):
        load_item_metadata("tiny", tmp_path)


def test_no_interactions(tmp_path):
    write(tmp_path, item_metadata__json=json.dumps(ITEMS))
    with pytest.raises(FileNotFoundError, match=r"put there sequential_data\.txt .* tiny\.inter"):
        load_interactions("tiny", tmp_path)


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
    # Numbered by code point over both files: v is in no interaction but is an item.
    assert got.item_tokens == ["", "v", "w", "x", "y", "z"]
    assert got.user_tokens == ["", "ann", "bob"]
    assert {i: m["token"] for i, m in metadata.items()} == dict(enumerate("vwxyz", 1))
    assert got.user_ids.tolist() == [1, 2]
    names = [[got.item_tokens[i] for i in row] for row in got.sequences.to_lists()]
    # By time; equal times keep the order of the file.
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
    assert got.sequences.to_lists() == [[4, 3], [2, 1]]  # no timestamp: the order of the file


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("", "is empty; its first line"),
        ("user_id\titem_id\n1\t2\n", "line 1: the header must be"),
        ("user_id:token\tuser_id:token\n1\t2\n", "line 1: the header must be"),
        ("user_id:int\titem_id:token\n1\t2\n", "line 1: the header must be"),
        ("user_id:token\titem_id_list:token_seq\n1\t2 3\n", "has no column item_id; it has user"),
        ("user_id:token\titem_id:token\n", "has a header but no rows"),
        ("user_id:token\titem_id:token\n1\t2\n1 3\n", "line 3: 1 cells, but the header has 2"),
        ("user_id:token\titem_id:token\n1\t2\n\n1\t\n", "line 4: item_id is empty"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tx\n", "line 2: timestamp 'x'"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnan\n", "line 2: timestamp 'nan'"),
    ],
)
def test_malformed_atomic_interactions(tmp_path, inter, message):
    write(tmp_path, tiny__inter=inter, tiny__item=ITEM)
    with pytest.raises(ValueError, match=rf"tiny\.inter.*{message}"):
        load_interactions("tiny", tmp_path)


def test_malformed_atomic_items(tmp_path):
    write(tmp_path, tiny__inter=INTER)
    with pytest.raises(FileNotFoundError, match=r"tiny\.inter but no tiny\.item"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, tiny__item=ITEM + "x\tagain\t2000\tDrama\n")
    with pytest.raises(ValueError, match=r"tiny\.item, line 7: item 'x' already has a line"):
        load_item_metadata("tiny", tmp_path)


def test_sequential_data_goes_before_atomic_files(tmp_path):
    write_tiny(tmp_path)
    write(tmp_path, tiny__inter=INTER, tiny__item=ITEM)
    assert load_interactions("tiny", tmp_path).item_tokens is None
    assert "token" not in load_item_metadata("tiny", tmp_path)[1]
