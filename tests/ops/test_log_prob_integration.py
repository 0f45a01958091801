"""Log-probabilities inside torch: opcheck, torch.compile, fake tensors, memory."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rl4rec_kernels as rk
from benchmarks.memory import peak_growth
from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import Catalog, Ids
from rl4rec_kernels.ops._log_sums import count_and_sum
from tests.errors import raises
from tests.ops import catalog_cases
from tests.ops.cases import Case, make_case
from tests.ops.catalog_cases import CatalogCase
from tests.ops.gpu import DEVICE, moved

AMONG = {
    "dense": make_case((4, 9, 12, 10), exact=False),
    "ragged": make_case((4, 9, 12, 10), exact=False, ragged=True, ids_dtype=torch.int32),
}


@pytest.fixture(autouse=True)
def _compile_anew():
    """Tests share code, which torch compiles a limited number of times."""
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("case", catalog_cases.CASES.values(), ids=catalog_cases.CASES)
def test_opcheck_catalog(case: CatalogCase, backend):
    if backend == "triton":
        case = moved(case, DEVICE)
    ops, check = _backends.operators(backend), torch.library.opcheck
    check(ops.log_prob_catalog.default, (*case, 0.5))
    if backend == "cpu":
        check(ops.rank_log_prob_catalog.default, (*case, 0.5))
    leaves = (part.clone().requires_grad_() for part in case[:2])
    check(ops.log_prob_catalog.default, (*leaves, *case[2:], 0.5))
    found = ops.log_prob_catalog(*case, 0.5)
    grad = torch.randn_like(found[0])
    for needs in ((True, True), (False, True)):
        check(ops.log_prob_catalog_grad.default, (grad, *found, *case, 0.5, *needs))


def test_opcheck_the_sums_of_a_slice():
    case = catalog_cases.CASES["ragged"]
    operator, scores = torch.ops.rl4rec.rank_log_sums_catalog.default, torch.zeros(len(case.query))
    torch.library.opcheck(operator, (*case, 0.5, scores))
    catalog = Catalog(case.table, case.valid, None, None)
    got = count_and_sum(
        case.query, catalog, case.targets, Ids(case.exclude, case.offsets), scores, 0.5
    )
    *counts, sums = operator(*case, 0.5, scores)
    torch.testing.assert_close(got, (torch.stack(counts) - torch.tensor([[0], [0], [1]]), sums))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("case", AMONG.values(), ids=AMONG)
def test_opcheck_candidates(case: Case, backend):
    if backend == "triton":
        case = moved(case, DEVICE)
    ops, check = _backends.operators(backend), torch.library.opcheck
    log_q = torch.randn(12, device=case.query.device)
    check(ops.log_prob_candidates.default, (*case, None, 0.5))
    leaves = (part.clone().requires_grad_() for part in case[:2])
    check(ops.log_prob_candidates.default, (*leaves, *case[2:], log_q, 0.5))
    found, normalizer = ops.log_prob_candidates(*case, log_q, 0.5)
    grad = torch.randn_like(found)
    check(ops.log_prob_candidates_weights.default, (grad, normalizer, *case, log_q, 0.5))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_compile_without_graph_breaks(backend):
    case, among = catalog_cases.CASES["ragged"], AMONG["ragged"]
    if backend == "triton":
        case, among = moved(case, DEVICE), moved(among, DEVICE)

    def step(query, table, other, targets, exclude, valid, candidates):
        loss = -rk.log_prob_catalog(
            query * 2, table, targets, exclude, 0.5, valid, backend=backend
        ).mean()
        return loss - rk.log_prob_candidates(other, table, candidates, 0.7, backend=backend).mean()

    def run(function):
        leaves = [part.clone().requires_grad_() for part in (*case[:2], among.query)]
        leaves[2] = torch.cat([leaves[2], leaves[2]], 1)[:, :12]
        rest = case.targets, case.exclusions, case.valid, among.candidates
        loss = function(*leaves, *rest)
        return loss, *torch.autograd.grad(loss, leaves)

    torch.testing.assert_close(run(torch.compile(step, fullgraph=True)), run(step))


def test_fake_tensors_have_the_right_shapes():
    with FakeTensorMode():
        query, table = torch.randn(3, 8, requires_grad=True), torch.randn(10, 8)
        ids = torch.zeros(3, 5, dtype=torch.int32)
        for found in (
            rk.log_prob_candidates(query, table, ids, 0.5, torch.zeros(10)),
            rk.log_prob_catalog(query, table, ids[:, 0], ids),
        ):
            assert (found.shape, found.dtype) == ((3,), torch.float32)
            (grad,) = torch.autograd.grad(found.sum(), query)
            assert grad.shape == query.shape


@pytest.mark.parametrize("name", ["log_prob_catalog", "log_prob_candidates"])
def test_a_second_derivative_is_rejected(name):
    query = torch.randn(4, 6, requires_grad=True)
    ids = torch.arange(4) if name == "log_prob_catalog" else torch.arange(12).reshape(4, 3)
    found = getattr(rk, name)(query, torch.randn(12, 6), ids)
    (grad,) = torch.autograd.grad((found**2).sum(), query, create_graph=True)
    with raises(NotImplementedError, "_candidates" if "cand" in name else name, "once"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ["log_prob_catalog", "log_prob_candidates"])
def test_transforms_are_refused(name):
    """A registered operator has no tangent: torch would take it for 0."""
    query, table = torch.randn(4, 6), torch.randn(12, 6)
    ids = torch.arange(4) if name == "log_prob_catalog" else torch.arange(12).reshape(4, 3)

    def loss(query):
        return getattr(rk, name)(query, table, ids).sum()

    with raises(NotImplementedError, name, "backward"):
        torch.func.grad(loss)(query)
    with raises(NotImplementedError, name, "backward"):
        torch.func.jvp(loss, (query,), (query,))


def test_autocast_does_not_change_results():
    case = catalog_cases.CASES["ragged"]
    for backend in ("cpu", "triton"):
        found = []
        for enabled in (False, True):
            query = moved(case.query, DEVICE if backend == "triton" else "cpu")
            query = query.clone().requires_grad_()
            rest = moved((case.table, case.targets), query.device)
            with torch.autocast(query.device.type, torch.bfloat16, enabled=enabled):
                result = rk.log_prob_catalog(query, *rest, backend=backend)
                found.append((result, *torch.autograd.grad(result.sum(), query)))
        torch.testing.assert_close(*found, rtol=0, atol=0)


def test_memory_does_not_grow_with_the_scores():
    setup = """
import torch, rl4rec_kernels as rk
query, table = torch.randn(2048, 16), torch.randn(100_000, 16)
targets, exclude = torch.arange(2048), torch.randint(0, 100_000, (2048, 50))
leaves = query.requires_grad_(), table.requires_grad_()
def ask(n):
    loss = rk.log_prob_catalog(query[:n], table, targets[:n], exclude[:n])
    torch.autograd.grad(loss.sum(), leaves)
ask(8)
"""
    mib = peak_growth(setup, "ask(2048)")
    assert mib < 64, f"{mib:.1f} MiB; a [B, N] matrix of scores alone would be 781"
