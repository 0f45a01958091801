"""Reading interactions: every layout, every form of a table, the filters, what is refused."""

import gzip
import io
import json

import numpy as np
import pytest

from rl4rec_kernels.data import (
    Interactions,
    RecommendationDataset,
    load_interactions,
    load_item_metadata,
    read_interactions,
)
from tests.data.layout_files import (
    EVENTS,
    ITEMS,
    LAYOUTS,
    SEQUENCES,
    START,
    amazon_ratings,
    write_csv,
    write_layout,
)
from tests.errors import raises

ROWS = [{"user_id": u, "item_id": i, "rating": r, "timestamp": START + t} for u, i, r, t in EVENTS]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def by_name(found: Interactions) -> dict[str, list[str]]:
    """The sequences with the ids of the file."""
    users = found.user_tokens or {user: str(user) for user in found.user_ids.tolist()}
    items = found.item_tokens or {i: str(i) for i in np.unique(found.sequences.values).tolist()}
    rows = zip(found.user_ids.tolist(), found.sequences.to_lists(), strict=True)
    return {users[user]: [items[i] for i in row] for user, row in rows}


def expected(layout: str) -> dict[str, list[str]]:
    """The sequences with the ids that the files of a layout have."""
    shift = {"lc-rec": 0, "minionerec": 0}.get(layout, 1)
    if layout in ("lc-rec", "minionerec", "p5") or layout.startswith("movielens"):
        items = {item: str(n) for n, item in enumerate(ITEMS, shift)}
        users = {user: str(n) for n, user in enumerate(SEQUENCES, shift)}
        if layout.startswith("movielens"):
            items = {item: item[2:] for item in ITEMS}
            users = {user: user[2:] for user in SEQUENCES}
        return {users[u]: [items[i] for i in row] for u, row in SEQUENCES.items()}
    return SEQUENCES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_alike(tmp_path, layout):
    folder = write_layout(tmp_path, layout)
    found = read_interactions(folder)
    sequences = expected(layout)
    if layout == "minionerec":  # the samples of the files, which have the latest items only
        sequences = {f"AAX{n}": row for n, row in enumerate(sequences.values(), 1)}
        assert {u: set(row) for u, row in by_name(found).items()} == {
            u: set(row) for u, row in sequences.items()
        }
    else:
        assert by_name(found) == sequences
    titles = {m["token"] if "token" in m else str(i): m for i, m in found.item_metadata.items()}
    names = dict(zip(ITEMS, expected_items(layout), strict=True))
    for item, (title, brand, category) in ITEMS.items():
        if names[item] in titles:
            fields = titles[names[item]]
            assert fields["title"] == title
            assert fields.get("brand") == (brand if has_brand(layout) else None)
            if layout == "movielens-100k":
                assert (fields["category"], fields["release_year"]) == ("Action, Comedy", "1995")
            elif layout != "minionerec":
                assert fields["category"].replace(",", ", ").replace("  ", " ") == ", ".join(
                    category
                )
    used = {item for row in sequences.values() for item in row}
    assert used <= set(titles)
    # By name, as the commands read it.
    assert by_name(load_interactions(layout, tmp_path)) == by_name(found)
    assert load_item_metadata(layout, tmp_path) == found.item_metadata
    assert by_name(read_interactions(folder, layout=layout)) == by_name(found)
    test = RecommendationDataset.from_source(folder, "test", num_negs=1)
    sample = test[0]
    assert found.item_metadata[sample["history"][-1]]["title"] in sample["prompt"]
    user = test.user_tokens[sample["user_id"]] if test.user_tokens else str(sample["user_id"])
    target = test.raw_items.of([sample["target"]])[0]
    assert str(target) == sequences[user][-1]


def expected_items(layout: str) -> list[str]:
    if layout.startswith("movielens"):
        return [item[2:] for item in ITEMS]
    if layout in ("lc-rec", "minionerec", "p5"):
        return [str(n) for n in range(layout == "p5", len(ITEMS) + (layout == "p5"))]
    return list(ITEMS)


def has_brand(layout: str) -> bool:
    return layout not in (
        "movielens",
        "movielens-1m",
        "movielens-100k",
        "yelp",
        "steam",
        "minionerec",
    )


def test_files_of_ratings_without_a_header(tmp_path):
    amazon_ratings(tmp_path)
    for file, layout in (
        ("ratings_Beauty.csv", "amazon-2014-ratings"),
        ("Beauty.csv", "amazon-2018-ratings"),
    ):
        assert by_name(read_interactions(tmp_path / file, layout=layout)) == SEQUENCES
    columns = ["item", "user", "stars", "when"]
    found = read_interactions(tmp_path / "Beauty.csv", columns=columns, time="when")
    assert by_name(found) == SEQUENCES
    with raises(ValueError, "Beauty.csv", "AX2", "B03", "user=", "columns=", "layout="):
        read_interactions(tmp_path / "Beauty.csv")


def tables(tmp_path):
    """The same rows in every form."""
    write_csv(tmp_path / "a.csv", [list(ROWS[0]), *(list(row.values()) for row in ROWS)])
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.tsv").write_text("\ufeff" + text.replace(",", "\t").replace("\n", "\r\n"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.replace("\n", "\n\n").encode()))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    yield from (tmp_path / name for name in ("a.csv", "a.tsv", "a.csv.gz", "a.jsonl"))
    yield ROWS
    yield COLUMNS
    yield {name: np.array(column) for name, column in COLUMNS.items()}
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS)
    yield frame.sample(frac=1, random_state=1)
    yield frame.assign(timestamp=pandas.to_datetime(frame["timestamp"], unit="s"))
    yield frame.assign(timestamp=pandas.to_datetime(frame["timestamp"], unit="s", utc=True))
    frame.to_parquet(tmp_path / "a.parquet")
    yield tmp_path / "a.parquet"
    datasets = pytest.importorskip("datasets")
    yield datasets.Dataset.from_dict(COLUMNS)
    yield datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset()
    yield datasets.Dataset.from_dict(COLUMNS).data.table


def test_every_form_of_a_table_is_read_alike(tmp_path):
    for source in tables(tmp_path):
        found = read_interactions(source, items=ITEMS_BY_ID)
        assert by_name(found) == SEQUENCES
        seconds = dict(
            zip(
                zip(COLUMNS["user_id"], COLUMNS["item_id"], strict=True),
                COLUMNS["timestamp"],
                strict=True,
            )
        )
        pairs = [(u, i) for u, row in SEQUENCES.items() for i in row]
        assert found.times.tolist() == [seconds[pair] for pair in pairs]


ITEMS_BY_ID = {item: {"title": title} for item, (title, *_) in ITEMS.items()}


def test_each_reader_makes_a_dataset(tmp_path):
    forms = list(tables(tmp_path))
    makers = RecommendationDataset.from_csv, RecommendationDataset.from_jsonl
    got = [makers[0](forms[0], num_negs=1), makers[1](forms[3], "train", num_negs=1)]
    got += [RecommendationDataset.from_pandas(forms[7], num_negs=1)]
    got += [RecommendationDataset.from_hf(forms[11], num_negs=1)]
    for data in got:
        assert list(data) == list(got[0])
        assert [data.user_tokens[s["user_id"]] for s in data] == ["AX1", "AX2", "AX3", "AX4"]
    with raises(TypeError, "splits", "source['train']"):
        RecommendationDataset.from_hf({"train": forms[11]})


@pytest.mark.parametrize(
    ("scale", "to"),
    [(1, float), (10**3, int), (10**6, int), (10**9, str)],
    ids=["s", "ms", "us", "ns"],
)
def test_times_in_any_unit(scale, to):
    columns = COLUMNS | {"timestamp": [to(t * scale) for t in COLUMNS["timestamp"]]}
    found = read_interactions(columns)
    assert by_name(found) == SEQUENCES
    assert np.sort(found.times).tolist() == pytest.approx(sorted(COLUMNS["timestamp"]))


def test_times_in_another_format():
    rows = [
        {"user": "a", "item": i, "when": w} for i, w in (("x", "03 02, 2015"), ("y", "12 31, 2014"))
    ]
    found = read_interactions(rows, time="when", time_format="%m %d, %Y")
    assert by_name(found) == {"a": ["y", "x"]}
    with raises(ValueError, "row 1", "'12 31, 2014'", "'%d %m, %Y'"):
        read_interactions(rows, time="when", time_format="%d %m, %Y")


def test_without_times_rows_keep_their_order(caplog):
    found = read_interactions({"user_id": [2, 1, 2], "item_id": [5, 5, 3]})
    assert found.sequences.to_lists() == [[5], [5, 3]]
    assert found.user_ids.tolist() == [1, 2]  # numbers stay as they are
    assert "time" in caplog.text


def test_filters_run_in_order():
    found = read_interactions(COLUMNS, min_rating=3, k_core=(2, 2))
    assert by_name(found) == {
        "AX1": ["B01", "B02", "B04", "B05"],
        "AX2": ["B03", "B02", "B05"],
        "AX3": ["B01", "B02", "B03"],
        "AX4": ["B01", "B02", "B03", "B04"],
    }  # AX2's B01, AX3's and AX4's B06 are rated low; then B06 has one user left, AX5, who has one
    assert any("3 interactions removed: rating below 3" in note for note in found.notes)
    assert "14 interactions" in str(found)
    twice = {"user_id": "aaaab", "item_id": "xyxzx", "time": [1, 2, 3, 4, 5]}
    twice = {name: list(column) for name, column in twice.items()}
    for duplicates, want in (("keep", "xyxz"), ("first", "xyz"), ("last", "yxz")):
        assert "".join(by_name(read_interactions(twice, duplicates=duplicates))["a"]) == want


def test_core_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    pairs = [
        (f"u{u}", f"i{i}")
        for u, i in zip(rng.zipf(1.4, 900) % 90, rng.zipf(1.4, 900) % 70, strict=True)
    ]
    left = pairs
    while True:
        users, items = (
            {k: sum(p[n] == k for p in left) for k in {p[n] for p in left}} for n in (0, 1)
        )
        kept = [(u, i) for u, i in left if users[u] >= 4 and items[i] >= 3]
        if len(kept) == len(left):
            break
        left = kept
    found = read_interactions(
        {"user_id": [u for u, _ in pairs], "item_id": [i for _, i in pairs]}, k_core=(4, 3)
    )
    assert sum(map(len, by_name(found).values())) == len(left) > 0


def test_items_decide_which_interactions_count():
    some = {item: fields for item, fields in ITEMS_BY_ID.items() if item not in ("B02", "B05")}
    found = read_interactions(COLUMNS, items=some)
    assert by_name(found)["AX1"] == ["B01", "B04"]
    assert [m["token"] for m in found.item_metadata.values()] == ["B01", "B03", "B04", "B06"]
    every = read_interactions(COLUMNS, items=some, all_items=True)
    assert [m["token"] for m in every.item_metadata.values()][-1] == "B07"
    assert every.item_metadata[1] == {"token": "B01", "title": '7" Mirror'}
    titles = read_interactions(COLUMNS).item_metadata  # without items: their ids
    assert titles[1] == {"token": "B01", "title": "B01"}


def test_the_fields_of_items(tmp_path):
    table = {"sku": [*ITEMS], "title": list("abcdefg"), "color": ["red"] * 7, "size": [1] * 7}
    found = read_interactions(COLUMNS, items=table, item_id="sku")
    assert found.item_metadata[1] == {"token": "B01", "title": "a", "color": "red", "size": 1}
    found = read_interactions(COLUMNS, items=table, item_id="sku", item_fields=["title"])
    assert found.item_metadata[1] == {"token": "B01", "title": "a"}
    with raises(ValueError, "item_fields", "'colour'", "sku, title, color, size"):
        read_interactions(COLUMNS, items=table, item_id="sku", item_fields=["colour"])
    with raises(ValueError, "items", "item_id=", "sku, title, color, size"):
        read_interactions(COLUMNS, items=table)
    with raises(ValueError, "'B03'", "items", "item_id="):
        read_interactions(COLUMNS, items={"other": {}})


def test_quoted_cells_with_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('user_id,item_id,text\na,x,"two\nlines, ""quoted"""\na,y,plain\n')
    found = read_interactions(path)
    assert by_name(found) == {"a": ["x", "y"]}
    path.write_text('user_id,item_id,text\na,x,"two\nlines"\na,,plain\n')
    with raises(ValueError, "a.csv, line 4", "item_id", "empty"):
        read_interactions(path)


BAD = [
    ("a.csv", b"user_id,item_id\na,x\nb\n", ("line 3", "1 cells", "2 columns")),
    ("a.csv", b"user_id,item_id\na,\n", ("line 2", "item_id", "empty")),
    ("a.csv", b"user_id,item_id\na,x\ty\n", ("line 2", "item_id", "control")),
    ("a.csv", b"user_id,item_id,timestamp\na,x,1\na,y,soon\n", ("line 3", "timestamp", "'soon'")),
    (
        "a.csv",
        b"user_id,item_id,timestamp\na,x,1600000000\na,y,1600000000000\n",
        ("line 2", "line 3", "unit"),
    ),
    ("a.csv", b'user_id,item_id\na,"x\nb,y\n', ("line 2", '"')),
    ("a.csv", b"user_id,item_id\na,\xff\n", ("line 2", "utf-8")),
    ("a.csv", b"user_id,item_id\na,x\0\n", ("line 2", "NUL")),
    ("a.csv", b"user_id,item_id\n", ("no interactions", "no rows")),
    ("a.csv", b"", ("empty",)),
    ("a.csv", b"uid,item_id\na,x\n", ("user", "uid, item_id", "user=")),
    ("a.csv", b"user_id,user_id\na,x\n", ("line 1", "different names", "columns=")),
    ("a.csv", gzip.compress(b"user_id"), ("gzip",)),
    ("a.csv.gz", b"user_id,item_id\na,x\n", ("gzip",)),
    ("a.csv.gz", gzip.compress(b"user_id,item_id\n" + b"a,x\n" * 999)[:-30], ("gzip", "complete")),
    ("a.jsonl", b'{"user_id": "a", "item_id": 1}\n{"user_id": 1}\n', ("line 2", "item_id")),
    ("a.jsonl", b'{"user_id": "a", "item_id": 1}\n{"user_id"\n', ("line 2", "JSON")),
    ("a.jsonl", b'{"user_id": "a", "item_id": 1}\n[1]\n', ("line 2", "object")),
    ("a.jsonl", b'{"user_id": "a", "item_id": true}\n', ("line 1", "item_id", "True")),
    ("a.jsonl", b'{"user_id": "a", "item_id": 1.5}\n', ("line 1", "item_id", "1.5")),
    ("a.jsonl", b'{"user_id": "a", "item_id": ["x"]}\n', ("line 1", "item_id", "['x']")),
    ("a.jsonl", b'{"user_id": "a", "item_id": "\\ud83d"}\n', ("line 1", "\\ud83d")),
    ("a.jsonl", b'[{"user_id": "a", "item_id": 1}]\n', ("JSON list",)),
    ("a.json", b"{'user_id': 'a', 'item_id': 1}\n{'user_id': id(1)}\n", ("line 2", "Python")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "named"), BAD)
def test_damaged_files_are_named(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with raises(ValueError, name, *named):
        read_interactions(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"layout": "amazon"}, ValueError, ("layout", "amazon-2023", "openp5", "'amazon'")),
        ({"layout": "openp5"}, ValueError, ("layout='openp5'", "folder")),
        ({"layout": "yelp"}, ValueError, ("user_id", "business_id", "timestamp", "item=")),
        ({"user": "uid"}, ValueError, ("user='uid'", "user_id, item_id, rating, timestamp")),
        ({"user": 3}, TypeError, ("user", "3")),
        ({"duplicates": "drop"}, ValueError, ("duplicates", "'drop'", "first")),
        ({"k_core": -1}, ValueError, ("k_core", "-1")),
        ({"k_core": (1, 2, 3)}, ValueError, ("k_core", "(1, 2, 3)")),
        ({"k_core": 99}, ValueError, ("k_core", "19", "99")),
        ({"min_rating": "4"}, TypeError, ("min_rating", "'4'")),
        ({"min_rating": 9}, ValueError, ("min_rating=9", "19")),
        ({"all_items": "no"}, ValueError, ("all_items", "'no'")),
        ({"show_progress": "no"}, ValueError, ("show_progress", "'no'")),
        ({"columns": ["a"]}, ValueError, ("columns", "source")),
        ({"items": 5}, TypeError, ("items", "5")),
    ],
)
def test_bad_arguments_are_named(options, error, named):
    with raises(error, *named):
        read_interactions(COLUMNS, **options)


def test_other_things_are_refused(tmp_path):
    with raises(FileNotFoundError, "source", tmp_path / "none.csv"):
        read_interactions(tmp_path / "none.csv")
    for source in (5, None, [], [1], io.StringIO("a")):
        with raises(TypeError, "source", "DataFrame"):
            read_interactions(source)
    with raises(FileNotFoundError, tmp_path, "sequential_data.txt", "ratings.csv"):
        read_interactions(tmp_path)
    for name in ("ratings_a.csv", "ratings_b.csv"):
        (tmp_path / name).write_text("user_id,item_id\na,x\n")
    with raises(ValueError, tmp_path, "ratings_a.csv, ratings_b.csv"):
        read_interactions(tmp_path)
    with raises(TypeError, "interactions", "read_interactions"):
        RecommendationDataset.from_interactions(COLUMNS, "train")  # type: ignore[arg-type]
    folder = write_layout(tmp_path, "recbole")
    for split in ("train", "valid", "test"):
        (folder / f"recbole.{split}.inter").write_bytes(
            (folder / "recbole.inter").read_bytes()[:90]
        )
    (folder / "recbole.inter").unlink()
    with raises(ValueError, "split", "k_core"):
        read_interactions(folder, k_core=2)


def test_long_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rl4rec_kernels.data.lines.MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr("rl4rec_kernels.data.lines._BLOCK_BYTES", 1 << 10)
    (tmp_path / "a.csv").write_bytes(b"user_id,item_id\n" + b"a,x\n" * 999)
    assert by_name(read_interactions(tmp_path / "a.csv"))["a"] == ["x"] * 999
    bomb = gzip.compress(b"user_id,item_id\na,x\n" + b"a" * (1 << 24))
    (tmp_path / "b.csv.gz").write_bytes(bomb)
    with raises(ValueError, "b.csv.gz", "line 3", "1 MiB"):
        read_interactions(tmp_path / "b.csv.gz")
