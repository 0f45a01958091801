"""Sums of exponentials on Hopper: their PTX on the CPU, and on a GPU if there is one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _hopper, rank_with_log_prob, reference
from tests.cuda.conftest import OnGpu
from tests.errors import raises
from tests.gpu.cases import some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F16
from tests.ops.catalog_cases import CatalogCase, assert_counts, make_catalog_case

# (B, N, D), the dtype and the temperature: several tiles and blocks of queries.
CASES = [
    ((130, 300, 72), BF16, 1.0),
    ((3, 600, 13), F16, 0.05),
    ((5, 257, 400), BF16, 30.0),
    ((1, 1, 1), BF16, 1.0),
    ((3, 2503, 16), F16, 1e3),
    ((2, 255, 0), BF16, 1e-3),
]


def both(raw: Any, case: CatalogCase, temperature: float = 1.0) -> tuple[rk.RankCounts, Tensor]:
    """Counts and log-probabilities of a case without bad ids, by one pass."""
    bad = torch.zeros(1, dtype=torch.int32)
    *counts, found = _hopper.rank_log_prob_catalog(raw, *case, temperature, bad)
    assert not bad.any()
    return rk.RankCounts(*counts), found


def alone(raw: Any, case: CatalogCase, temperature: float = 1.0) -> Tensor:
    return _hopper.log_prob_catalog(raw, *case, temperature, torch.zeros(1, dtype=torch.int32))[0]


def close(got: Tensor, want: Tensor, error: float = 1e-6) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=error, atol=error)


@pytest.mark.parametrize(("shape", "dtype", "temperature"), some(CASES, 1, 3), ids=str)
def test_log_probabilities_and_counts(raw, shape, dtype, temperature):
    case = make_catalog_case(shape, (dtype, dtype), exclusions=shape[0] < 100)
    counts, found = both(raw, case, temperature)
    close(found, reference.log_prob_catalog(*case, temperature))
    assert_counts(counts, reference.rank_catalog(*case))
    if shape[0] < 100:
        assert torch.equal(alone(raw, case, temperature), found)


def test_a_result_does_not_depend_on_the_batch(raw):
    case = make_catalog_case((130, 300, 24), (BF16, BF16), exact=False)
    case = case._replace(exclude=torch.arange(260).view(130, 2) + 17)
    want = alone(raw, case, 0.3)
    scores = case.query.double() @ case.table.double().T
    close(want, reference.log_prob_catalog(*case, 0.3, scores=scores), 1e-4)
    for part in some([slice(120, 130), slice(0, 1), slice(63, 129)], 2, 1):
        own = case.query[part], case.table, case.targets[part], case.exclude[part], None, None
        assert torch.equal(alone(raw, CatalogCase(*own), 0.3), want[part])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the emulator's arithmetic
def test_scores_that_are_not_finite(raw):
    """All in one call: query i scores 1 where item j has bit i, so each query has its own items."""
    inf, nan = math.inf, math.nan
    scores = [inf, 1.0, inf, 3e38, -inf, -inf, nan, -3e38, 0.0]
    table = torch.tensor(scores, dtype=BF16)[:, None]
    rows = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [4, 1, 8], [4, 5], [5], [6, 1, 0], [3, 7], [3, 8, 4]]
    targets = torch.tensor([0, 3, 4, 4, 5, 1, 7, 3])
    exclude = rk.RaggedIds.from_lists([sorted({*range(9)} - {*row}) for row in rows])
    ids, offsets = (torch.as_tensor(part) for part in exclude)
    case = CatalogCase(torch.ones(8, 1, dtype=BF16), table, targets, ids, offsets, None)
    counts, found = both(raw, case)
    want = torch.tensor([0.5, 0.0, 0.0, 0.5, 1.0, nan, 0.0, 1.0])
    torch.testing.assert_close(found.exp(), want, equal_nan=True)
    assert_counts(counts, reference.rank_catalog(*case))
    valid = torch.tensor([score == -inf or score == 0 for score in scores])
    case = case._replace(exclude=None, offsets=None, valid=valid)
    case = case._replace(query=case.query[:2], targets=torch.tensor([8, 4]))
    torch.testing.assert_close(both(raw, case)[1].exp(), torch.tensor([1.0, 0.0]))
    case = case._replace(valid=table[:, 0] == -inf, targets=torch.tensor([5, 4]))
    torch.testing.assert_close(both(raw, case)[1].exp(), torch.tensor([0.5, 0.5]))


def test_copies_and_products_may_be_early(raw, emulated_hopper):
    case = make_catalog_case((3, 300, 72), (BF16, BF16), exclusions=True)
    with emulated_hopper.mode(Mode(False, False, False)):
        close(alone(raw, case), reference.log_prob_catalog(*case, 1.0))


def test_the_public_calls(raw):
    device = "cuda" if isinstance(raw, OnGpu) else "cpu"
    case = make_catalog_case((3, 300, 72), (BF16, BF16), exclusions=True)
    case = CatalogCase(*(part.to(device) for part in case))
    query, table, *rest = case.arguments
    query, table = (part.clone().requires_grad_() for part in (query, table))
    options = {"temperature": 0.7, "valid": case.valid, "backend": "cuda"}
    found = rk.log_prob_catalog(query, table, *rest, **options)
    want = reference.log_prob_catalog(*case, 0.7)
    close(found.detach(), want)
    counts, same = rank_with_log_prob(*case.arguments, **options)
    assert torch.equal(same, found)
    assert_counts(counts, reference.rank_catalog(*case))
    wide = [part.detach().double().requires_grad_() for part in (query, table)]
    grads = [
        torch.autograd.grad(part.sum(), sides)
        for part, sides in (
            (found, (query, table)),
            (reference.log_prob_catalog(*wide, *case[2:], 0.7), wide),
        )
    ]
    for got, other in zip(*grads, strict=True):
        torch.testing.assert_close(got.double(), other, rtol=0.02, atol=0.02)
    with raises(IndexError, "targets", 300):
        rk.log_prob_catalog(case.query, case.table, [0, 300, 1], backend="cuda")
    with raises(ValueError, "backend='cuda'", "'triton'", "float32"):
        rank_with_log_prob(case.query.float(), case.table.half(), case.targets, **options)


def test_the_raw_operator_checks_its_arguments(raw):
    case = make_catalog_case((3, 5, 8), (BF16, BF16))
    sides, ids = (case.query, case.table), torch.zeros(2, dtype=torch.int64)
    for arguments, *named in (
        ((None, None, ids.int(), ids, 1.0, torch.zeros(6)), "counts", "target_scores"),
        ((None, None, ids.int(), None, 1.0, None), "pairs", "starts"),
        ((None, None, ids, ids, 1.0, None), "pairs", "int32"),
        ((torch.zeros(3), None, None, None, 1.0, torch.zeros(6)), "counts", "int64 [6]"),
    ):
        with raises(ValueError, *named):
            raw.sum_catalog(*sides, *arguments)
    none = torch.ones(0, 8, dtype=BF16)
    assert raw.sum_catalog(none, case.table, None, None, None, None, 1.0, None).shape == (2, 0, 1)
    sums = raw.sum_catalog(case.query, none, None, None, None, None, 1.0, None)
    assert sums.shape == (2, 3, 0)
