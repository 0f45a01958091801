"""Where datasets are searched for, and files that cannot be decoded."""

import gzip

import pytest

from rl4rec_kernels.data import load_interactions, load_item_metadata
from tests.data.cases import write, write_tiny
from tests.errors import raises


def test_directory_resolution(tmp_path, monkeypatch):
    write_tiny(tmp_path)
    monkeypatch.delenv("RL4REC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with raises(FileNotFoundError, "data does not exist"):
        load_item_metadata("tiny")
    (tmp_path / "data").symlink_to(tmp_path)
    assert len(load_item_metadata("tiny")) == 9  # ./data

    other = tmp_path / "other"
    other.mkdir()
    write_tiny(other, items={"1": {"title": "only"}})
    monkeypatch.setenv("RL4REC_DATA", str(other))
    assert len(load_item_metadata("tiny")) == 1  # the variable overrides ./data
    assert len(load_item_metadata("tiny", tmp_path)) == 9  # the argument overrides both


def test_missing_dataset_lists_the_existing_ones(tmp_path):
    write_tiny(tmp_path)
    with raises(FileNotFoundError, "'beuaty'", "found tiny", "data_dir=", "RL4REC_DATA"):
        load_item_metadata("beuaty", tmp_path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/abs"])
def test_name_must_be_plain(tmp_path, name):
    with raises(ValueError, "name", "plain", repr(name), "data_dir"):
        load_interactions(name, tmp_path)


def test_name_must_be_text(tmp_path):
    with raises(TypeError, "name", "string", 3):
        load_interactions(3, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "not a complete gzip file"),
        (gzip.compress(b'{"1": {}}')[:-9], "not a complete gzip file"),
        (gzip.compress(b'{"1": {"title": "\xff"}}'), "not UTF-8"),
    ],
)
def test_broken_bytes(tmp_path, content, message):
    write(tmp_path, item_metadata__json__gz=content)
    with raises(ValueError, "item_metadata.json.gz", message):
        load_item_metadata("tiny", tmp_path)


def test_line_ends_of_classic_mac_os(tmp_path):
    write(tmp_path, sequential_data__txt="1 2 3\r2 4 5\r")
    assert load_interactions("tiny", tmp_path).sequences.to_lists() == [[2, 3], [4, 5]]
