"""Where datasets are searched for, and files that cannot be decoded."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from rl4rec_kernels.cli.evaluate import read_texts
from rl4rec_kernels.data import load_interactions, load_item_metadata
from tests.data.cases import INTER, ITEM, write, write_tiny
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


def pack(kind: str) -> bytes:
    """A file of some kind, with the right contents inside if it can have any."""
    text = b"1 2 3\n2 4 5\n"
    with io.BytesIO() as file:
        if kind == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("sequential_data.txt", text)
        elif kind == "tar":
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(__file__)
        elif kind == "npy":
            np.save(file, np.arange(9))
        elif kind == "pickle":
            pickle.dump({1: {"title": "soap"}}, file)
        elif kind == "safetensors":
            file.write(save({"x": torch.ones(2)}))
        else:
            file.write(
                {
                    "gzip": gzip.compress(text),
                    "bzip2": bz2.compress(text),
                    "xz": lzma.compress(text),
                    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n",
                    "HTML": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>404</title></html>\n",
                    "HTML upper": b"  <HTML><BODY>Not found</BODY></HTML>",
                    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
                    "Parquet": b"PAR1\x15\x04\x15\x10",
                    "UTF-16": text.decode().encode("utf-16"),
                    "UTF-16 be": b"\xfe\xff" + text.decode().encode("utf-16-be"),
                    "UTF-32": text.decode().encode("utf-32"),
                    "NUL": text.decode().encode("utf-16-le"),
                    "NULs at the end": text + bytes(100),
                }[kind]
            )
        return file.getvalue()


KINDS = {
    "gzip": ".gz",
    "zip": "unpack",
    "tar": "unpack",
    "bzip2": "unpack",
    "xz": "unpack",
    "npy": "NumPy",
    "pickle": "never",
    "safetensors": "safetensors",
    "LFS": "git lfs pull",
    "HTML": "web page",
    "HTML upper": "web page",
    "XML": "web page",
    "Parquet": "Parquet",
    "UTF-16": "iconv",
    "UTF-16 be": "iconv",
    "UTF-32": "iconv",
    "NUL": "line 1",
    "NULs at the end": "line 3",
}
ALL_FILES = ("sequential_data.txt", "item_metadata.json", "meta.jsonl", "tiny.inter", "tiny.item")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_another_kind_is_named(tmp_path, name, kind, packed):
    """Not as numbers or JSON that are malformed, and never with the advice to unpickle it."""
    if name.startswith("tiny"):
        write(tmp_path, tiny__inter=INTER, tiny__item=ITEM)
        (tmp_path / "tiny" / name).unlink()
    content = pack(kind)
    name += ".gz" * packed
    write(tmp_path, **{name: gzip.compress(content) if packed else content})
    load = load_interactions if "seq" in name or "inter" in name else load_item_metadata
    with raises(ValueError, tmp_path / "tiny" / name, KINDS[kind]) as caught:
        load("tiny", tmp_path)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gzip"}))
def test_a_file_that_is_not_gzip_is_named(tmp_path, kind):
    write(tmp_path, sequential_data__txt__gz=pack(kind))
    named = () if kind.startswith("NUL") else (KINDS[kind],)
    with raises(ValueError, "sequential_data.txt.gz", "gzip", *named):
        load_interactions("tiny", tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_all_line_ends_give_the_same_users(tmp_path, end, last):
    lines = ["1 2 3", "2 4 5", "3 6 7"]
    write(tmp_path, sequential_data__txt=end.join(lines) + (end if last else ""))
    assert load_interactions("tiny", tmp_path).sequences.to_lists() == [[2, 3], [4, 5], [6, 7]]


# Characters that str.splitlines, universal newlines or str.split treat as a separator.
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000"


@pytest.mark.parametrize("char", ["\r", *SEPARATORS])
def test_two_users_in_one_line_never_become_one(tmp_path, char):
    write(tmp_path, sequential_data__txt=f"1 2 3\n2 4 5{char}3 6 7\n")
    with raises(ValueError, "sequential_data.txt", "line 2"):
        load_interactions("tiny", tmp_path)


@pytest.mark.parametrize("char", ["\r", *"\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"])
def test_tokens_have_no_control_characters(tmp_path, char):
    write(tmp_path, tiny__inter=f"user_id:token\titem_id:token\nann\tx\nann\ty{char}\tz\n")
    named = ("line 3",) if char == "\r" else ("line 3", "3 cells")
    with raises(ValueError, "tiny.inter", *named):
        load_interactions("tiny", tmp_path)
    write(tmp_path, tiny__inter=f"user_id:token\titem_id:token\nann\tx\nann{char}\tx\n")
    with raises(ValueError, "tiny.inter", "line 3"):
        load_interactions("tiny", tmp_path)


def test_tokens_that_differ_in_a_space_are_two(tmp_path):
    write(tmp_path, tiny__inter="user_id:token\titem_id:token\nann\tx\nann\u3000\ty\n")
    assert load_interactions("tiny", tmp_path).user_tokens == ["", "ann", "ann\u3000"]


@pytest.mark.parametrize("char", SEPARATORS)
def test_titles_may_contain_any_space(tmp_path, char):
    for name, content in {
        "item_metadata.json": json.dumps({"1": {"title": f"a{char}b"}}, ensure_ascii=False),
        "meta.jsonl": json.dumps({"id": 1, "title": f"a{char}b"}) + '\n{"id": 2, "title": "c"}',
    }.items():
        write(tmp_path, name[:4], **{name: content})
        assert load_item_metadata(name[:4], tmp_path)[1]["title"] in ("a b", f"a{char}b")


@pytest.mark.parametrize("half", ["\\ud800", "\\uDC00", "\\ud83d x", "\\ud83d\\ud83d\\ude00"])
def test_half_a_character_in_a_title_is_named(tmp_path, half):
    lines = ['{"1": {"title": "a \\ud83d\\ude00 \\\\ud800"},', f'"2": {{"title": "{half}"}}}}']
    write(tmp_path, item_metadata__json="\n".join(lines))
    with raises(ValueError, "item_metadata.json", "line 2", "\\u"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, item_metadata__json=lines[0][:-1] + "}")
    assert load_item_metadata("tiny", tmp_path)[1]["title"] == "a 😀 \\ud800"
    write(tmp_path, item_metadata__json='{"1": {}}\n\xed\xa0\x80'.encode("latin-1"))
    with raises(ValueError, "item_metadata.json", "line 2", "UTF-8"):
        load_item_metadata("tiny", tmp_path)


def test_texts_of_a_model_are_checked_line_by_line():
    for line, named in {
        '{"user_id": 1, "text": "\\ud800"}': "\\ud800",
        "<html>": "web page",
        "version https://git-lfs.github.com/spec/v1": "git lfs pull",
    }.items():
        with raises(ValueError, "line 2", named):
            read_texts(['{"user_id": 3, "text": "a"}', line])
