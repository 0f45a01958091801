"""Mapped files that are cut or replaced while in use."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils import mapped
from rl4rec_kernels.ops import _blocks
from tests.errors import raises

ROWS = 40_000  # of 64 bytes: several hundred pages


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.randn(ROWS, 16)).save(path)
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
    yield lambda: ItemIndex.from_embeddings(table)


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
    np.save(tmp_path / "a.npy", np.ones((ROWS, 16), np.float32))
    index = ItemIndex.import_file(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 4096)
    with raises(OSError, tmp_path / "a.npy", 4096):
        rk.topk_catalog(torch.zeros(1, 16), index.table, 3)


def test_a_replaced_file_stays_readable(path):
    """The old file stays mapped until its table is freed, and is closed then."""
    index = ItemIndex.open(path)
    part = index.table[5:]
    want = rk.topk_catalog(torch.ones(1, 16), index.table, 3)
    ItemIndex.from_embeddings(torch.ones(3, 16)).save(path)
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
    assert mapped._files.keys() == {other.table.untyped_storage().data_ptr()}
    open_files = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    assert f"{path} (deleted)" not in open_files
