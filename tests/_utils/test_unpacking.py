"""Small files that hold much are refused before they fill the memory."""

import gzip
import zipfile

import pytest
import torch

from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils.unpacking import UNPACKED_VARIABLE
from rl4rec_kernels.data import load_item_metadata
from tests.errors import raises


@pytest.fixture(autouse=True)
def one_mib(monkeypatch):
    monkeypatch.setenv(UNPACKED_VARIABLE, "1")


def test_a_gzip_file_that_holds_more_than_the_bound(tmp_path, monkeypatch):
    path = tmp_path / "tiny" / "item_metadata.json.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"1": {"title": "soap"}}' + b" " * (1 << 20)))
    with raises(ValueError, path, "1 MiB", UNPACKED_VARIABLE):
        load_item_metadata("tiny", tmp_path)
    monkeypatch.setenv(UNPACKED_VARIABLE, "2")
    assert load_item_metadata("tiny", tmp_path) == {1: {"title": "soap"}}
    for wrong in ("two", "-1", "1e3"):
        monkeypatch.setenv(UNPACKED_VARIABLE, wrong)
        with raises(ValueError, UNPACKED_VARIABLE, wrong):
            load_item_metadata("tiny", tmp_path)


def test_a_tensor_file_that_holds_more_than_the_bound(tmp_path):
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    table = torch.zeros(9, 1 << 15)
    table[1:, 0] = 1
    torch.save(table, plain)
    assert len(ItemIndex.import_file(plain)) == 8  # as large as its file
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    expanded = tmp_path / "expanded.pt"
    torch.save(torch.zeros(1).expand(2**40, 4), expanded)
    for path in (packed, expanded):
        with raises(ValueError, path, "1 MiB", UNPACKED_VARIABLE):
            ItemIndex.import_file(path)
