"""The best items on Hopper: the PTX on the CPU, and on a GPU if there is one."""

from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _hopper_topk
from tests.cuda.conftest import OnGpu
from tests.cuda.test_hopper_quantized import quantized
from tests.errors import raises
from tests.gpu.cases import some
from tests.ops.cases import BF16, F16, F32
from tests.ops.catalog_cases import CatalogCase, assert_same, make_catalog_case, reference_best

I8, F8 = torch.int8, torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for few items, so that small tables take several rounds."""
    monkeypatch.setattr(_hopper_topk, "_SPARE", 30)


def best(
    raw: Any, case: CatalogCase, k: int, table: rk.QuantizedTable | None = None
) -> tuple[Tensor, Tensor]:
    """The public call, on the device of the kernels; its results on the CPU."""
    device = "cuda" if isinstance(raw, OnGpu) else "cpu"
    moved = CatalogCase(*(part if part is None else part.to(device) for part in case))
    table = moved.table if table is None else rk.QuantizedTable(*(p.to(device) for p in table))
    found = rk.topk_catalog(
        moved.query, table, k, moved.exclusions, valid=moved.valid, backend="cuda"
    )
    return tuple(part.cpu() for part in found)


@pytest.mark.parametrize(
    ("dtypes", "shape", "k"),
    some(
        [
            ((F32, F32), (3, 700, 72), 5),
            ((F32, BF16), (130, 300, 13), 3),
            ((BF16, BF16), (2, 700, 72), 5),
            ((F16, F16), (3, 2503, 16), 1),
            ((F32, F32), (2, 60, 13), 60),  # all of them
            ((BF16, BF16), (1, 1, 0), 1),
        ],
        2,
    ),
    ids=str,
)
def test_whole_numbers_give_exactly_the_reference(raw, dtypes, shape, k):
    case = make_catalog_case(shape, dtypes, exclusions=True)
    assert_same(best(raw, case, k), reference_best(case, k))


@pytest.mark.parametrize(("dtype", "dim"), some([(I8, 72), (F8, 72), (I8, 13)], 1, 2), ids=str)
def test_quantized_tables(raw, dtype, dim):
    case, table, exact = quantized((2, 500, dim), dtype, exclusions=True)
    scores, ids = best(raw, case, 4, table)
    want, want_ids = reference_best(case, 4, scores=exact)
    assert ids.tolist() == want_ids.tolist()
    torch.testing.assert_close(scores, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", some([BF16, F32], 2), ids=str)
def test_more_than_there_is_room_for(raw, monkeypatch, dtype):
    """The best items are not in the samples; and equal ones, of which the lower id comes first."""
    monkeypatch.setattr(_hopper_topk, "_KEYS_AT_ONCE", 128 * 46)
    case = make_catalog_case((130, 700, 16), (dtype, dtype))
    table = case.table.clone()
    table[:, 0] = 50.0
    table[::5] = 0.0  # the samples
    query = case.query.clone()
    query[:, 0] = 1.0
    query[129, :] = 0.0  # in the second block of queries: all items are equal
    case = case._replace(query=query, table=table, exclude=torch.tensor([[1, 0, -1]] * 130))
    assert_same(best(raw, case, 2), reference_best(case, 2))


def test_more_excluded_items_than_there_is_room_for(raw):
    case = make_catalog_case((2, 700, 16), (BF16, BF16))
    offsets = torch.tensor([0, 695, 695])
    case = case._replace(exclude=torch.arange(3, 698), offsets=offsets)
    found = best(raw, case, 8)
    assert_same(found, reference_best(case, 8))
    assert found[1][0].tolist().count(-1) == 3


def test_the_raw_operator_checks_its_arguments(raw):
    query, table = torch.ones(3, 8, dtype=BF16), torch.ones(5, 8, dtype=BF16)
    bounds, keys = torch.zeros(3).long(), torch.zeros(3, 4).long()
    found, none = torch.zeros(3).int(), None
    for arguments, *named in (
        ((bounds.int(), none, none, none, none, keys, found), "bounds", "int64 [3]"),
        ((bounds, none, found, none, none, keys, found), "pairs", "starts"),
        ((bounds, none, none, none, found, keys, found), "needed", "int32"),
        ((bounds, none, none, none, none, keys[:, :0], found), "keys", "int64 [3, capacity]"),
    ):
        with raises(ValueError, *named):
            raw.collect_catalog(query, table, *arguments)
