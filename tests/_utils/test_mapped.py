"""Mapped files that are cut or replaced while in use."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils import mapped
from rl4rec_kernels.ops import _blocks
from tests.errors import raises

ROWS = 40_000  # of 64 bytes: several hundred pages


def save(path: Path, table: torch.Tensor, origin: str = "") -> None:
    index = ItemIndex.from_embeddings(table, valid=torch.ones(len(table), dtype=torch.bool))
    index.origin["encoder"] = origin
    index.save(path)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index.safetensors"
    save(path, torch.randn(ROWS, 16))
    return path


def calls(table: torch.Tensor):
    query, targets = torch.zeros(2, 16), torch.tensor([1, len(table) - 1])
    yield lambda: rk.score_candidates(query, table, targets[:, None])
    yield lambda: rk.rank_candidates(query, table, targets[:, None])
    yield lambda: rk.reward_candidates(query, table, targets[:, None])
    yield lambda: rk.rank_catalog(query, table, targets)
    yield lambda: rk.reward_catalog(query, table, targets)
    yield lambda: rk.topk_catalog(query, table, 3)
    yield lambda: rk.quantize_table(table, torch.int8)
    yield lambda: ItemIndex.from_embeddings(table, ids=range(len(table)))


@pytest.mark.parametrize("part", [slice(None), slice(30_000, None)], ids=["table", "slice"])
def test_a_file_that_was_cut_is_named(path, part):
    """Otherwise it would be a bus error, which kills the process."""
    table = ItemIndex.open(path).table[part]
    for call in calls(table):
        call()
    os.truncate(path, 4096)
    for call in calls(table):
        with raises(OSError, path, 4096):
            call()


def test_a_file_is_checked_before_every_slice(path, monkeypatch):
    monkeypatch.setattr(_blocks, "SLICE_BYTES", 1 << 20)
    table = ItemIndex.open(path).table
    query, targets = torch.zeros(2, 16), torch.tensor([1, 2])
    want = rk.rank_catalog(query, table, targets)
    real, seen = _blocks._rows, []

    def cut_after_two(*arguments):
        seen.append(arguments)
        if len(seen) == 3:
            os.truncate(path, 4096)
        return real(*arguments)

    monkeypatch.setattr(_blocks, "_rows", cut_after_two)
    with raises(OSError, path, 4096):
        rk.rank_catalog(query, table, targets)
    assert want.total.tolist() == [ROWS] * 2


def test_imported_arrays_are_checked_too(tmp_path):
    table = np.ones((ROWS, 16), np.float32)
    table[0] = 0
    np.save(tmp_path / "a.npy", table)
    index = ItemIndex.import_file(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 4096)
    with raises(OSError, tmp_path / "a.npy", 4096):
        rk.topk_catalog(torch.zeros(1, 16), index.table, 3)


def test_a_replaced_file_stays_readable(path):
    """The old file stays mapped until its table is freed, and is closed then."""
    before = set(mapped._files)  # of other tests' tables
    index = ItemIndex.open(path)
    part = index.table[5:]
    want = rk.topk_catalog(torch.ones(1, 16), index.table, 3)
    save(path, torch.ones(3, 16))
    for got, wanted in zip(rk.topk_catalog(torch.ones(1, 16), index.table, 3), want, strict=True):
        assert torch.equal(got, wanted)
    address = part.untyped_storage().data_ptr()
    del index
    gc.collect()
    other = ItemIndex.open(path)
    assert address in mapped._files  # the slice still needs it
    del part, other
    gc.collect()
    other = ItemIndex.open(path)
    assert mapped._files.keys() - before == {other.table.untyped_storage().data_ptr()}
    open_files = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    assert f"{path} (deleted)" not in open_files


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_opening_again_and_again_leaks_no_descriptor(path, tmp_path):
    """A new mapping of the file often has the address of the last one."""
    np.save(tmp_path / "a.npy", np.ones((ROWS, 16), np.float32))
    everything = torch.ones(ROWS, dtype=torch.bool)
    before = open_descriptors()
    for _ in range(12):
        ItemIndex.open(path)
        ItemIndex.import_file(tmp_path / "a.npy", valid=everything)
    assert open_descriptors() <= before + 2
    (tmp_path / "bad.safetensors").write_bytes(path.read_bytes()[:-9])
    for _ in range(12):
        with raises(ValueError, tmp_path / "bad.safetensors"):
            ItemIndex.open(tmp_path / "bad.safetensors")
    assert open_descriptors() <= before + 2


def test_threads_close_each_descriptor_once(path):
    errors = []

    def work() -> None:
        try:
            for _ in range(8):
                index = ItemIndex.open(path)
                rk.topk_catalog(torch.ones(1, 16), index.table[:9], 1)
        except Exception as error:
            errors.append(error)

    before = open_descriptors()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    ItemIndex.open(path)
    assert open_descriptors() <= before + 4


def test_an_index_is_never_a_mix_of_two_files(path, monkeypatch):
    """Another process saves after the header was read and before the table is mapped."""
    save(path, torch.zeros(300, 8), "0")
    real, versions = safetensors.safe_open, iter(range(1, 100))

    def replaced(*arguments, **options):
        file = real(*arguments, **options)
        version = next(versions)
        save(path, torch.full((300 + version, 8), float(version)), str(version))
        return file

    monkeypatch.setattr(safetensors, "safe_open", replaced)
    for version in range(3):
        index = ItemIndex.open(path)
        assert index.origin["encoder"] == str(version)
        assert index.table.shape == (300 + version, 8)
        assert (index.table == version).all()
        assert mapped._files[index.table.untyped_storage().data_ptr()].size < path.stat().st_size


def test_an_array_is_never_a_mix_of_two_files(tmp_path, monkeypatch):
    """NumPy opens a path twice: for the header, and for the map."""
    path = tmp_path / "a.npy"
    np.save(path, np.ones((100, 16), np.float32))
    real = np.memmap

    def replaced(*arguments, **options):
        np.save(tmp_path / "b.npy", np.full((3, 2), 2, np.float16))
        os.replace(tmp_path / "b.npy", path)
        return real(*arguments, **options)

    monkeypatch.setattr(np, "memmap", replaced)
    index = ItemIndex.import_file(path, valid=torch.ones(100, dtype=torch.bool))
    assert index.table.shape == (100, 16)
    assert (index.table == 1).all()
