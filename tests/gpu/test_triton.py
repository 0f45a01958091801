"""Every Triton kernel as compiled PTX; `make test-gpu-emulated` has all cases."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "0":
    pytest.skip("make test runs it in another process", allow_module_level=True)

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import reference
from tests.ambient import products
from tests.gpu import compiled
from tests.gpu.cases import EVERY, some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F16, F32, METRICS, make_case
from tests.ops.catalog_cases import (
    assert_counts,
    assert_same,
    make_catalog_case,
    reference_best,
)
from tests.ops.gpu import Backend
from tests.ops.test_targets import draw_targets, want_counts
from tests.ops.test_triton_compile import KERNELS

TRITON = Backend("triton")
BF16_90, F32_90, BF16_80 = (90, BF16), (90, F32), (80, BF16)
ALL_RUNS = [BF16_90, F32_90, BF16_80, (90, F16), (80, F16), (80, F32)]


def runs(*quick, dtypes=(BF16, F16, F32)):
    """For these GPUs and dtypes; `make test-gpu-emulated` has all GPUs and `dtypes`."""
    chosen = [run for run in ALL_RUNS if run[1] in dtypes] if EVERY else quick
    return pytest.mark.parametrize(
        "dtype", chosen, ids=lambda run: f"sm_{run[0]}-{run[1]}", indirect=True
    )


@pytest.fixture
def dtype(request):
    """Runs the test for a GPU, with embeddings of a dtype."""
    capability, dtype = request.param
    with compiled.capability(capability):
        yield dtype


@runs(BF16_90)
@pytest.mark.parametrize("ragged", some([True, False], 2))
def test_candidates(dtype, ragged):
    case = make_case((3, 300, 40, 37), (dtype, dtype), ragged=ragged)
    args = case.query, case.table, case.candidates
    assert torch.equal(TRITON.score_candidates(*args), reference.score_candidates(*case).float())
    assert_counts(TRITON.rank_candidates(*args), reference.rank_candidates(*case))
    got = TRITON.reward_candidates(*args, METRICS)
    want = reference.reward_candidates(*case, parse_metrics(METRICS), parse_ties("expected"))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)
    log_q = torch.randn(40)
    got = TRITON.log_prob_candidates(*args, 0.5, log_q)
    want = reference.log_prob_candidates(*case, log_q, 0.5)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@runs(BF16_90)
def test_gradients_of_scores(dtype):
    case = make_case((5, 40, 13, 33), (dtype, dtype), exact=False)
    weights, grads = torch.randn(case.ids.shape), {}
    for backend in ("triton", "reference"):
        query, table = (t.clone().requires_grad_() for t in case[:2])
        if backend == "reference":
            query, table = (t.detach().float().requires_grad_() for t in case[:2])
        scores = rk.score_candidates(query, table, case.ids, backend=backend)
        loss = (scores.masked_fill(scores == -torch.inf, 0) * weights).sum()
        grads[backend] = torch.autograd.grad(loss, (query, table))
    for got, want in zip(grads["triton"], grads["reference"], strict=True):
        tolerance = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=1e-5)


@runs(BF16_90, F32_90, BF16_80)
def test_ranks_in_the_catalog(dtype):
    case = make_catalog_case((33, 401, 72), (dtype, dtype), exclusions=True)
    want = reference.rank_catalog(*case)
    assert_counts(TRITON.rank_catalog(*case.arguments, valid=case.valid), want)
    if EVERY or dtype == F32:
        got = TRITON.reward_catalog(*case.arguments, METRICS, valid=case.valid)
        exact = reference.metrics_from_counts(want, parse_metrics(METRICS), parse_ties("expected"))
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-7)


@runs(BF16_90)
def test_copies_and_writes_may_be_early(dtype):
    case = make_catalog_case((33, 401, 72), (dtype, dtype), exclusions=True)
    with compiled.capability(compiled.GPU.capability, Mode(False, False, False)):
        counts = TRITON.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(counts, reference.rank_catalog(*case))


@runs(BF16_90)
def test_several_targets(dtype):
    case = make_catalog_case((9, 151, 40), (dtype, dtype), exclusions=True)
    targets = draw_targets(case, most=3)
    arguments = (case.query, case.table, targets, case.exclusions)
    counts = TRITON.rank_catalog(*arguments, valid=case.valid)
    assert_counts(counts, want_counts(case, targets))
    metrics = ("ndcg@3", "recall@3", "map@3", "mrr")
    offsets = targets.offsets
    got = TRITON.metrics_from_counts(counts, metrics, offsets=offsets)
    want = rk.metrics_from_counts(counts, metrics, offsets=offsets, backend="reference")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7, equal_nan=True)


@runs(BF16_90)
def test_overflow_is_settled_in_float64(dtype):
    table = torch.ones(300, 72, dtype=dtype)
    table[7] = torch.finfo(dtype).max
    query = torch.full((2, 72), 2.0, dtype=dtype)
    counts = TRITON.rank_catalog(query, table, torch.tensor([7, 8]))
    assert counts.above.tolist() == [0, 1]
    assert counts.tied.tolist() == [0, 298]


@runs(BF16_90)
@pytest.mark.parametrize("room", [8, 1], ids=["one pass", "searched again"])
def test_the_best_of_the_catalog(dtype, room, monkeypatch):
    module = __import__("rl4rec_kernels.ops.triton.topk_catalog", fromlist=["_ROOM"])
    monkeypatch.setattr(module, "_ROOM", room)
    monkeypatch.setattr(module, "_SPARE", 200)
    case = make_catalog_case((3, 1503, 72), (dtype, dtype))
    k = 5
    if room == 1:  # equal items are adjacent, so that four times as many as k reach the bound
        case, k = case._replace(table=case.table.repeat_interleave(4, 0)[:702]), 120
    got = TRITON.topk_catalog(case.query, case.table, k)
    assert_same(got, reference_best(case, k))
    if room == 8:
        small = case._replace(table=case.table[:90])
        assert_same(TRITON.topk_catalog(small.query, small.table, 7), reference_best(small, 7))


@runs(F32_90, dtypes=[F32])
@pytest.mark.parametrize("copy", some([torch.int8, torch.float8_e4m3fn], 2), ids=str)
def test_quantized_tables(dtype, copy):
    case = make_catalog_case((9, 150, 33), (F32, F32), exact=False)
    quantized = rk.quantize_table(case.table, copy)
    scores = TRITON.every_score(case.query, quantized.values, quantized.row_stats)
    counts = TRITON.rank_catalog(case.query, quantized, case.targets)
    assert_counts(counts, reference.rank_catalog(*case[:3], scores=scores))


@runs(BF16_90)
def test_log_probabilities_of_the_catalog(dtype):
    case = make_catalog_case((9, 401, 40), (dtype, dtype), exclusions=True, exact=False)
    scores = TRITON.every_score(case.query, case.table)
    query, table = (t.clone().requires_grad_() for t in case[:2])
    options = {"temperature": 0.5, "valid": case.valid}
    args = (case.targets, case.exclusions)
    got = rk.log_prob_catalog(query, table, *args, **options, backend="triton")
    want = reference.log_prob_catalog(*case, 0.5, scores=scores)
    torch.testing.assert_close(got.detach().double(), want, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(got.sum(), (query, table))
    plain = [t.detach().float().requires_grad_() for t in (query, table)]
    exact = rk.log_prob_catalog(*plain, *args, **options, backend="reference")
    for grad, wanted in zip(found, torch.autograd.grad(exact.sum(), plain), strict=True):
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(grad.float(), wanted, rtol=tolerance, atol=tolerance + 1e-4)


@runs(F32_90, dtypes=[F32])
@pytest.mark.parametrize("dim", some([32, 384], 2))
def test_the_error_of_float32_products_that_are_split(dtype, dim):
    """In units of the last place of sum |q_j t_j|: as a float32 sum has it; see docs/gpu.md."""
    query, table = torch.randn(4, dim, dtype=dtype), torch.randn(32, dim, dtype=dtype)
    exact, size = query.double() @ table.double().T, query.abs().double() @ table.abs().double().T
    for precision, least, most in (("ieee", 0.0, 4.0), ("tf32", 100.0, 2.0**14)):
        with products(f"cuda.matmul.fp32_precision={precision}"):
            scores = TRITON.every_score(query, table)
        error = ((scores.double() - exact).abs() / size).max().item() * 2**24
        assert least <= error <= most, precision


def test_every_kernel_ran():
    """The last test: what those before have launched."""
    TRITON.metrics_from_counts(rk.RankCounts(*torch.ones(3, 5).long()), ("ndcg@3",))
    names = {name for name, capability in compiled.ran if capability == 90}
    assert names == KERNELS
