"""Damaged files of any kind are read, or refused with an error that names the file."""

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl4rec_kernels as rk
from rl4rec_kernels import ItemIndex
from rl4rec_kernels.adapters.http import read_rows
from rl4rec_kernels.cli.app import read_requests
from rl4rec_kernels.cli.evaluate import read_texts
from rl4rec_kernels.data import load_interactions, load_item_metadata
from rl4rec_kernels.data.labels import read_label
from tests.data.cases import INTER, ITEM, ITEMS, SEQUENCES
from tests.errors import raises

QUICK = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STRANGE = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"NaN",
    b"-1",
    b"-Infinity",
    b"1e999",
    b"9" * 30,
    b"9" * 5000,
    b"null",
    b"[" * 2000,
    b'{"',
    b'"',
    b"\t",
    b"\r",
    b"\n",
    b"\\ud800",
    b"\xe2\x80\xa8",
    b"../../etc/passwd",
    b"\x80\x04cposix\nsystem\n",
    b"true",
    b"2.5",
    b"\x1f\x8b\x08",
    b":token_seq",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file that was cut, or partly overwritten with other bytes."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(whole)))
        end = draw(st.sampled_from([begin, min(begin + 1, len(whole)), len(whole)]))
        whole = whole[:begin] + draw(st.sampled_from(STRANGE) | st.binary(max_size=9)) + whole[end:]
    return whole


def error_of(read, *kinds: type[Exception]) -> Exception | None:
    """The error of one of `kinds` that `read` raises, if any."""
    try:
        read()
    except kinds as error:
        return error
    return None


def read_or_refused(path: Path, read) -> bool:
    """Whether `read` accepts the file; if not, its error must name the file."""
    error = error_of(read, ValueError, OSError)
    assert error is None or str(path) in str(error)
    assert not isinstance(error, UnicodeError)
    return error is None


@QUICK
@given(st.data())
def test_data_sets(tmp_path, data):
    files = {
        "item_metadata.json": json.dumps(ITEMS).encode(),
        "sequential_data.txt": SEQUENCES.encode(),
        "tiny.inter": INTER.encode(),
        "tiny.item": ITEM.encode(),
    }
    bad = data.draw(st.sampled_from(list(files)), "file")
    content = data.draw(damaged(files[bad]), "content")
    atomic = bad.startswith("tiny")
    for path in (tmp_path / "tiny").glob("*"):
        path.unlink()
    (tmp_path / "tiny").mkdir(exist_ok=True)
    for name, whole in files.items():
        if name.startswith("tiny") == atomic:
            (tmp_path / "tiny" / name).write_bytes(content if name == bad else whole)
    path = tmp_path / "tiny" / bad
    if data.draw(st.booleans(), "packed"):
        path.unlink()
        path = path.with_name(bad + ".gz")
        path.write_bytes(data.draw(st.sampled_from([gzip.compress(content), content])))
    for load in (load_item_metadata, load_interactions):
        read_or_refused(path, lambda load=load: load("tiny", tmp_path))


@QUICK
@given(
    JSON
    | st.dictionaries(st.integers(0, 9).map(str), JSON | st.fixed_dictionaries({"title": JSON}))
)
def test_metadata_of_any_json(tmp_path, content):
    (tmp_path / "tiny").mkdir(exist_ok=True)
    path = tmp_path / "tiny" / "item_metadata.json"
    path.write_text(json.dumps(content))
    if read_or_refused(path, lambda: load_item_metadata("tiny", tmp_path)):
        for item, fields in load_item_metadata("tiny", tmp_path).items():
            assert item > 0
            assert isinstance(fields.get("title", ""), str)


def test_deeply_nested_lists(tmp_path):
    (tmp_path / "tiny").mkdir()
    path = tmp_path / "tiny" / "item_metadata.json"
    for depth in (200, 700, 900, 960):
        path.write_text('{"1": {"title": ' + "[" * depth + "]" * depth + "}}")
        read_or_refused(path, lambda: load_item_metadata("tiny", tmp_path))


NAMES = st.text(st.characters() | st.sampled_from("./\\~\0"), max_size=12)


@QUICK
@given(
    NAMES | st.sampled_from(["../tiny", "/etc", "tiny/", "./tiny", "~", "a" * 300, "tiny/../tiny"])
)
def test_names_cannot_leave_the_directory(tmp_path, name):
    for load in (load_item_metadata, load_interactions):
        with pytest.raises((ValueError, OSError)):
            load(name, tmp_path)


@pytest.fixture(scope="module")
def index_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    index = ItemIndex.from_embeddings(torch.randn(8, 5), ids=range(1, 9))
    index.origin = {"encoder": "e", "metadata": "m", "fields": '["title"]'}
    index.save(path)
    return path.read_bytes()


@QUICK
@given(st.data())
def test_index_files(tmp_path, index_file, data):
    path = tmp_path / "index.safetensors"
    path.write_bytes(data.draw(damaged(index_file)))

    def use() -> None:
        index = ItemIndex.open(path)
        query = torch.zeros(1, index.dim, dtype=index.table.dtype)
        rk.topk_catalog(query, index.table, 1, valid=index.valid)
        ItemIndex.open(path, item_metadata={1: {"title": "soap"}})

    read_or_refused(path, use)


@QUICK
@given(st.data())
def test_index_files_with_another_header(tmp_path, index_file, data):
    """The header has other shapes, dtypes and texts."""
    length = int.from_bytes(index_file[:8], "little")
    header, rest = json.loads(index_file[8 : 8 + length]), index_file[8 + length :]
    numbers = st.integers(-1, 2**64) | st.sampled_from([0, 9, 5, 45, 180, 189])
    table = {
        "dtype": st.sampled_from(["F32", "F64", "BOOL", "I8", "BF16", "F8_E4M3", "X"]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2),
    }
    entry = st.sampled_from(["table", "valid", "__metadata__", "more"])
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(entry)
        if name == "__metadata__":
            field = data.draw(st.sampled_from(["format", "fields", "metadata"]))
            header[name][field] = data.draw(st.text(max_size=5) | st.just("[" * 2000))
        else:
            key = data.draw(st.sampled_from(list(table)))
            header.setdefault(name, {})[key] = data.draw(table[key])
    head = json.dumps(header).encode()
    path = tmp_path / "index.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + rest)
    read_or_refused(path, lambda: ItemIndex.open(path, item_metadata={1: {"title": "soap"}}))


def test_a_mask_with_other_bytes_than_0_and_1_is_damaged(tmp_path, index_file):
    length = int.from_bytes(index_file[:8], "little")
    begin = 8 + length + json.loads(index_file[8 : 8 + length])["valid"]["data_offsets"][0]
    path = tmp_path / "index.safetensors"
    path.write_bytes(index_file[: begin + 3] + b"\x02" + index_file[begin + 4 :])
    with raises(ValueError, path, "is damaged"):
        ItemIndex.open(path)


@pytest.fixture(scope="module")
def imports(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("imports")
    np.save(folder / "a.npy", np.eye(9, 5, -1, np.float32))
    table = {"table": torch.ones(9, 5), "ids": torch.arange(9)}
    torch.save(table, folder / "a.pt")
    torch.save(table, folder / "b.pt", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@QUICK
@given(st.data())
@pytest.mark.parametrize("name", ["a.npy", "a.pt", "b.pt"])
def test_imported_embeddings(tmp_path, imports, name, data):
    path = tmp_path / name
    path.unlink(missing_ok=True)  # do not overwrite a file that may still be mapped
    path.write_bytes(data.draw(damaged(imports[name])))

    def read() -> None:
        try:
            ItemIndex.import_file(path)
        except TypeError as error:  # another dtype
            raise ValueError(str(error)) from error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.load warns about unusual files
        read_or_refused(path, read)


LINE = b'{"text": "soap", "target": 3, "user_id": 1, "history": [1, 2], "neg_items": [4], "query": '
LINE += b'["soap"], "labels": [{"target": 3}]}'
LINES = damaged(LINE) | JSON.map(lambda value: json.dumps(value).encode())


@QUICK
@given(LINES)
def test_json_lines(line):
    text = line.decode(errors="replace")
    for read in (read_requests, read_texts):
        error = error_of(lambda read=read: list(read([text])), ValueError)
        assert error is None or "line 1" in str(error) or "there are no texts" in str(error)
    for read, what in ((read_label, text), (read_rows, line)):
        error = error_of(lambda read=read, what=what: read(what), TypeError, ValueError)
        assert not isinstance(error, UnicodeError)
