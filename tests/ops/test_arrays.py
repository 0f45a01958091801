"""NumPy arrays and lists give what tensors give."""

from typing import Any

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels._utils.arrays import as_tensor
from tests.errors import raises

DRAW = np.random.default_rng(0)
QUERY, TABLE = (DRAW.standard_normal((rows, 8), np.float32) for rows in (3, 40))
LISTS = [[1, 2, 3], [4], [5, 6]]
PADDED = np.array([[1, 2, 3], [4, -1, -1], [5, 6, -1]])
TARGETS = torch.tensor([7, 8, 9])
VALID = np.arange(40) != 11

CALLS = {
    "score_candidates": lambda q, t, ids, _: rk.score_candidates(q, t, ids),
    "rank_candidates": lambda q, t, ids, _: rk.rank_candidates(q, t, ids),
    "reward_candidates": lambda q, t, ids, _: rk.reward_candidates(q, t, ids),
    "log_prob_candidates": lambda q, t, ids, _: rk.log_prob_candidates(q, t, ids),
    "rank_catalog": lambda q, t, ids, v: rk.rank_catalog(q, t, TARGETS, ids, valid=v),
    "reward_catalog": lambda q, t, ids, v: rk.reward_catalog(q, t, TARGETS, ids, valid=v),
    "log_prob_catalog": lambda q, t, ids, v: rk.log_prob_catalog(q, t, TARGETS, ids, valid=v),
    "topk_catalog": lambda q, t, ids, v: rk.topk_catalog(q, t, 5, ids, valid=v),
    "quantize_table": lambda q, t, ids, v: rk.quantize_table(t),
    "mine_hard_negatives": lambda q, t, ids, v: torch.from_numpy(
        rk.mine_hard_negatives(q, t, TARGETS, ids, 4, valid=v)
    ),
    "evaluate": lambda q, t, ids, v: rk.evaluate(
        q, t, TARGETS, exclude=ids, valid=v, num_bootstrap=10
    ).per_user["whole catalog"],
}


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CALLS)
def test_arrays_and_lists_give_what_tensors_give(name):
    def call(make: Any, ids: Any) -> list[torch.Tensor]:
        result = CALLS[name](make(QUERY), make(TABLE), ids, make(VALID))
        return [result] if isinstance(result, torch.Tensor) else list(result)

    ragged = rk.RaggedIds.from_lists(LISTS)
    want = call(torch.tensor, ragged)
    for ids in (LISTS, tuple(map(tuple, LISTS)), ragged):
        for got, value in zip(call(read_only, ids), want, strict=True):
            assert torch.equal(got, value)
    padded = call(lambda array: array, PADDED)
    for got, value in zip(padded, call(torch.tensor, torch.tensor(PADDED)), strict=True):
        assert torch.equal(got, value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["plain", "read-only", "part", "float16", "mapped"])
def test_memory_is_shared(kind, tmp_path):
    array = TABLE.astype(np.float16) if kind == "float16" else TABLE.copy()
    if kind == "mapped":
        np.save(tmp_path / "table.npy", array)
        array = np.load(tmp_path / "table.npy", mmap_mode="r")
    if kind == "part":
        array = array[4:20, 2:6]
    if kind == "read-only":
        array = read_only(array)
    tensor = as_tensor("table", array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    address, want = tensor.data_ptr(), torch.tensor(np.array(array))
    del array
    assert torch.equal(tensor, want)
    assert tensor.data_ptr() == address


@pytest.mark.parametrize("array", [TABLE[::-1], TABLE[:, ::-1], TABLE.astype(">f4")])
def test_other_layouts_are_copied(array):
    assert torch.equal(as_tensor("table", array), torch.tensor(array.astype(np.float32).tolist()))


def test_other_values_are_left_or_named():
    assert as_tensor("table", None) is None
    with raises(TypeError, "table", "object"):
        as_tensor("table", np.array([None]))
    with raises(TypeError, "query", "float64", "np.float32"):
        rk.rank_candidates(QUERY.astype(np.float64), TABLE, LISTS)
