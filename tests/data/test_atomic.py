"""RecBole's atomic files."""

import gzip

import pytest

from rl4rec_kernels.data import load_interactions, load_item_metadata
from tests.data.cases import INTER, ITEM, dataset, write, write_tiny
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


HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"
SPLIT = {  # times across the files do not matter, only those within one
    "tiny.train.inter": HEAD + "ann\ty\t9\nann\tx\t8\nbob\tz\t1\nbob\tw\t2\ncid\tx\t1\n",
    "tiny.valid.inter": HEAD + "bob\tv\t0\nann\tz\t0\n",
    "tiny.test.inter": HEAD + "ann\tw\t0\ncid\ty\t1\n",
}
SAMPLES = {  # user: history, target
    "train": {"ann": ("x", "y"), "bob": ("z", "w")},
    "valid": {"ann": ("xy", "z"), "bob": ("zw", "v")},
    "test": {"ann": ("xyz", "w"), "cid": ("x", "y")},
}


def samples(root, split: str) -> dict[str, tuple[str, str]]:
    """The samples of a split by the names in the file."""
    data = dataset(root, split)
    names, users = data.item_tokens, data.user_tokens
    return {
        users[s["user_id"]]: ("".join(names[i] for i in s["history"]), names[s["target"]])
        for s in data
    }


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_split_are_the_splits(tmp_path, packed):
    files = {**SPLIT, "tiny.item": ITEM}
    if packed:
        files = {f"{name}.gz": gzip.compress(text.encode()) for name, text in files.items()}
    write(tmp_path, **files)
    for split, wanted in SAMPLES.items():
        assert samples(tmp_path, split) == wanted
    assert dataset(tmp_path, "test", num_negs=1, num_items=6).negatives.shape == (2, 1)


def test_files_that_are_split_with_histories_in_rows(tmp_path):
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    rows = {
        "train": "ann\tx\ty\nbob\tz\tw\nbob\t\tz\n",  # also shorter beginnings
        "valid": "ann\tx y\tz\nbob\tz w\tv\n",
        "test": "ann\tx y z\tw\ncid\tx\ty\n",
    }
    write(tmp_path, tiny__item=ITEM, **{f"tiny.{s}.inter": head + t for s, t in rows.items()})
    for split, wanted in SAMPLES.items():
        assert samples(tmp_path, split) == wanted


def test_a_history_in_a_row_is_read(tmp_path):
    head = "user_id:token\titem_id:token\titem_id_list:token_seq\trating:float\n"
    rows = "ann\tw\ty z x\t5\nbob\tz\tx y\t1\nbob\ty\tx\t1\n"
    write(tmp_path, tiny__inter=head + rows, tiny__item=ITEM)
    got = load_interactions("tiny", tmp_path)
    names = [[got.item_tokens[i] for i in row] for row in got.sequences.to_lists()]
    assert names == [["y", "z", "x", "w"], ["x", "y", "z"]]
    assert samples(tmp_path, "test") == {"ann": ("yzx", "w"), "bob": ("xy", "z")}
    assert samples(tmp_path, "train") == {"ann": ("y", "z")}  # leave-one-out, as of any file


def test_items_without_metadata_do_not_move_targets(tmp_path):
    """A target that is not known leaves its user out, instead of the item before it."""
    item = "\n".join(line for line in ITEM.splitlines() if line[0] != "z")  # z is in ann's valid
    write(tmp_path, **SPLIT, tiny__item=item)
    assert samples(tmp_path, "train") == {"ann": ("x", "y")}
    assert samples(tmp_path, "valid") == {"bob": ("w", "v")}
    assert samples(tmp_path, "test") == {"ann": ("xy", "w"), "cid": ("x", "y")}


@pytest.mark.parametrize("missing", SAMPLES)
def test_a_split_without_a_file_is_named(tmp_path, missing):
    write(tmp_path, **SPLIT, tiny__item=ITEM)
    (tmp_path / "tiny" / f"tiny.{missing}.inter").unlink()
    with raises(ValueError, f"split '{missing}'"):
        dataset(tmp_path, missing)


def test_whole_and_split_files_together_are_refused(tmp_path):
    write(tmp_path, **SPLIT, tiny__inter=INTER, tiny__item=ITEM)
    for load in (load_interactions, load_item_metadata):
        with raises(ValueError, tmp_path / "tiny", "tiny.inter", "tiny.train.inter"):
            load("tiny", tmp_path)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_two_targets_in_a_split_are_refused(tmp_path, split):
    write(tmp_path, **SPLIT, tiny__item=ITEM)
    write(tmp_path, **{f"tiny.{split}.inter": SPLIT[f"tiny.{split}.inter"] + "ann\tv\t7\n"})
    with raises(ValueError, f"tiny.{split}.inter", "line 4", "'ann'"):
        load_interactions("tiny", tmp_path)


@pytest.mark.parametrize(
    ("header", "rows", "named"),
    [
        ("user_id:token\titem_id:token_seq", ["a\tx y"], ("line 1", "item_id", "token_seq")),
        ("user_id:token_seq\titem_id:token", ["a\tx"], ("line 1", "user_id", "token_seq")),
        ("user_id:token\titem_id:token\titem_id_list:token", ["a\tx\ty"], ("item_id_list",)),
        ("user_id:token\titem_id:token\tuser_id_list:token_seq", ["a\tx\tb"], ("user_id_list",)),
        ("user_id:token\titem_id:token\tneg_item_id:token", ["a\tx\ty"], ("neg_item_id",)),
        ("user_id:token\titem_id:token\tlabel:float", ["a\tx\t1", "a\ty\t0"], ("line 3", "'0'")),
        ("user_id:token\titem_id:token\tlabel:float", ["a\tx\t-1"], ("line 2", "label", "'-1'")),
        ("session_id:token\titem_id:token", ["a\tx"], ("user_id", "session_id")),
        (
            "user_id:token\titem_id_list:token_seq\titem_id:token",
            ["a\tx y\tz", "a\ty z\tx"],
            ("line 3", "'a'", "item_id"),
        ),
    ],
)
def test_rows_that_mean_something_else_are_refused(tmp_path, header, rows, named):
    write(tmp_path, tiny__inter="\n".join([header, *rows]), tiny__item=ITEM)
    with raises(ValueError, "tiny.inter", *named):
        load_interactions("tiny", tmp_path)


def test_columns_that_do_not_change_a_row_are_left_out(tmp_path):
    head = "user_id:token\titem_id:token\tlabel:float\ttag_list:token_seq\tsession_id:token\n"
    write(tmp_path, tiny__inter=head + "a\tx\t1\tp q\ts\na\ty\t1.0\t\tt\n", tiny__item=ITEM)
    assert load_interactions("tiny", tmp_path).sequences.to_lists() == [[3, 4]]


def test_one_split_without_histories_is_refused(tmp_path):
    write(tmp_path, **SPLIT, tiny__item=ITEM)
    history = "user_id:token\titem_id_list:token_seq\titem_id:token\nann\tx y z\tw\n"
    write(tmp_path, tiny__test__inter=history)
    with raises(ValueError, "tiny.train.inter", "item_id_list"):
        load_interactions("tiny", tmp_path)


def test_quotes_are_those_of_recbole(tmp_path):
    """RecBole reads the files with pandas, so titles are what pandas makes of them."""
    pandas = pytest.importorskip("pandas")
    cells = ['"7"" Mirror"', '7" Mirror', '"a\tb"', 'a "b" c', '"two\nlines"', '""']
    rows = "".join(f"{token}\t{cell}\tx\n\n" for token, cell in zip("tuvwxy", cells, strict=True))
    item = "item_id:token\ttitle:token_seq\tbrand:token\n" + rows
    write(tmp_path, tiny__inter='user_id:token\titem_id:token\na\tt\na\t"u"\n', tiny__item=item)
    table = pandas.read_csv(
        tmp_path / "tiny" / "tiny.item", sep="\t", engine="python", keep_default_na=False
    )
    metadata = load_item_metadata("tiny", tmp_path)
    assert [m["token"] for m in metadata.values()] == table["item_id:token"].tolist()
    titles = [" ".join(title.split()) for title in table["title:token_seq"]]
    assert [m.get("title", "") for m in metadata.values()] == titles
    assert titles[:2] == ['7" Mirror'] * 2
    assert load_interactions("tiny", tmp_path).sequences.to_lists() == [[1, 2]]


@pytest.mark.parametrize(
    ("rows", "line"), [('x\t"a\ny\tb\n', 2), ('x\ta\ny\t"b" c\n', 3), ('x\t"' + "a" * 2**18, 2)]
)
def test_quotes_that_do_not_close_are_named(tmp_path, rows, line):
    write(tmp_path, tiny__inter=INTER, tiny__item="item_id:token\ttitle:token_seq\n" + rows)
    with raises(ValueError, "tiny.item", f"line {line}:", '"'):
        load_item_metadata("tiny", tmp_path)
