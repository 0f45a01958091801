"""Gradients of log-probabilities, every CPU level and the GPU backend, against float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import reference
from tests.gpu.cases import some
from tests.ops.cases import BF16, DTYPES, F32, make_case
from tests.ops.catalog_cases import CatalogCase, make_catalog_case
from tests.ops.gpu import DEVICE, moved

INF, NAN = math.inf, math.nan


def gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    found = function(*leaves)
    weights = torch.linspace(-1, 2, len(found), dtype=found.dtype, device=found.device)
    return list(torch.autograd.grad((found * weights).sum(), leaves))


def check_gradients(got: list[Tensor], want: list[Tensor], dtypes: Any) -> None:
    for one, other, dtype in zip(got, want, dtypes, strict=True):
        assert one.dtype == dtype
        scale = max(float(other.abs().max()), 1e-9)
        unit = 3e-6 if dtype == F32 else torch.finfo(dtype).eps
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=unit, atol=4 * unit)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 61, 12), (33, 401, 64)], ids=str)
def test_gradients_of_the_catalog(level, dtypes, shape):
    temperature = 0.3 if shape[0] == 5 else 20.0
    case = make_catalog_case(shape, dtypes, exact=False, exclusions=True)
    check_catalog_gradients(case, dtypes, temperature)


def test_gradients_of_several_blocks_of_queries_and_items():
    case = make_catalog_case((600, 900, 33), exact=False)
    check_catalog_gradients(case, (F32, F32), 1.0)


def check_catalog_gradients(case: CatalogCase, dtypes: Any, temperature: float) -> None:
    rest = case.targets, case.exclusions, temperature, case.valid
    got = gradients(lambda q, t: rk.log_prob_catalog(q, t, *rest), *case[:2])
    small = case.query.double(), case.table.double()
    want = gradients(lambda q, t: reference.log_prob_catalog(q, t, *case[2:], temperature), *small)
    check_gradients(got, want, dtypes)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_among_candidates(level, dtypes, ragged):
    case = make_case((7, 300, 40, 45), dtypes, ragged=ragged, exact=False)
    log_q = torch.randn(40)
    rest = case.candidates, 0.7, log_q
    got = gradients(lambda q, t: rk.log_prob_candidates(q, t, *rest), *case[:2])
    small = case.query.double(), case.table.double()
    want = gradients(
        lambda q, t: reference.log_prob_candidates(q, t, *case[2:], log_q, 0.7), *small
    )
    check_gradients(got, want, dtypes)


@pytest.mark.parametrize("dtypes", some([(F32, F32), (BF16, BF16)], 2), ids=str)
def test_gradients_on_a_gpu(dtypes):
    case = make_catalog_case((130, 301, 33), dtypes, exact=False, exclusions=True)
    arguments = [moved(part, DEVICE) for part in (case.targets, case.exclusions, case.valid)]
    targets, exclude, valid = arguments

    def catalog(query, table):
        return rk.log_prob_catalog(query, table, targets, exclude, 0.7, valid, backend="triton")

    got = gradients(catalog, *(moved(part, DEVICE) for part in case[:2]))
    small = case.query.double(), case.table.double()
    want = gradients(lambda q, t: reference.log_prob_catalog(q, t, *case[2:], 0.7), *small)
    check_gradients([part.cpu() for part in got], want, dtypes)
    for ragged in (False, True):
        among = make_case((7, 100, 40, 45), dtypes, ragged=ragged, exact=False)
        log_q = torch.randn(40)
        rest = moved(among.candidates, DEVICE), 0.7, moved(log_q, DEVICE)
        got = gradients(
            lambda q, t, rest=rest: rk.log_prob_candidates(q, t, *rest, backend="triton"),
            *(moved(part, DEVICE) for part in among[:2]),
        )
        small = among.query.double(), among.table.double()
        want = gradients(
            lambda q, t, c=among, p=log_q: reference.log_prob_candidates(q, t, *c[2:], p, 0.7),
            *small,
        )
        check_gradients([part.cpu() for part in got], want, dtypes)


@pytest.mark.parametrize("frozen", ["query", "table"])
def test_one_gradient_alone_is_the_same(frozen):
    case = make_catalog_case((40, 401, 64), exact=False)
    both = gradients(lambda q, t: rk.log_prob_catalog(q, t, case.targets), *case[:2])
    if frozen == "table":
        got = gradients(lambda q: rk.log_prob_catalog(q, case.table, case.targets), case.query)
        assert torch.equal(got[0], both[0])
    else:
        got = gradients(lambda t: rk.log_prob_catalog(case.query, t, case.targets), case.table)
        assert torch.equal(got[0], both[1])


def test_gradients_do_not_depend_on_threads(level):
    case = make_catalog_case((70, 1501, 33), exact=False, exclusions=True)
    ids = torch.randint(0, 1501, (70, 60))

    def find() -> list[Tensor]:
        rest = case.targets, case.exclusions, 0.7, case.valid
        return [
            *gradients(lambda q, t: rk.log_prob_catalog(q, t, *rest), *case[:2]),
            *gradients(lambda q, t: rk.log_prob_candidates(q, t, ids), *case[:2]),
        ]

    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(find())
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_rows_that_do_not_compete_leave_no_trace_in_gradients():
    case = make_catalog_case((9, 50, 12), exact=False)
    table = case.table.clone()
    targets, exclude = torch.zeros(9, dtype=torch.int64), torch.full((9, 1), 7)
    table[7], table[8] = NAN, INF
    valid = torch.arange(50) != 8
    rest = targets, exclude, 1.0, valid
    got = gradients(lambda q, t: rk.log_prob_catalog(q, t, *rest), case.query, table)
    finite = table.nan_to_num(1.0, 1.0)
    want = gradients(lambda q, t: rk.log_prob_catalog(q, t, *rest), case.query, finite)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
