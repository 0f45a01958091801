"""Tests of the operators that need a GPU: graphs, streams, devices, no waits, large tables."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _backends, reference
from tests.ops.cases import BF16, F16, F32
from tests.ops.catalog_cases import CatalogCase, make_catalog_case, tables
from tests.ops.gpu import Backend, moved

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

BACKENDS = ["triton", "cuda"]
CASE = make_catalog_case((70, 9_001, 64), exact=False, exclusions=True)
METRICS = ("ndcg@10", "mrr", "logrank")


def candidates_of(case) -> Tensor:
    """Each target, then other items."""
    others = torch.randint(0, len(case.table), (len(case.query), 150))
    return torch.cat([case.targets.long()[:, None], others], 1)


CANDIDATES = candidates_of(CASE)


def ask_candidates(case: CatalogCase, ids: Tensor, query: Tensor, backend: str) -> list[Tensor]:
    table, options = case.table, {"backend": backend}
    return [
        rk.score_candidates(query, table, ids, **options),
        *rk.rank_candidates(query, table, ids, **options),
        rk.reward_candidates(query, table, ids, METRICS, **options),
    ]


def ask_catalog(case: CatalogCase, ids: Tensor, query: Tensor, backend: str) -> list[Tensor]:
    exclude = rk.RaggedIds(case.exclude, case.offsets)
    options = {"valid": case.valid, "backend": backend}
    return [
        *rk.rank_catalog(query, case.table, case.targets, exclude, **options),
        rk.reward_catalog(query, case.table, case.targets, exclude, METRICS, **options),
        *rk.topk_catalog(query, case.table, 10, exclude, **options),
    ]


@pytest.fixture(params=["candidates by triton", "candidates by cuda", "catalog by triton"])
def ask(request) -> Callable[[Tensor], list[Tensor]]:
    """Calls all operators of a kind on a query, once they have been compiled and loaded."""
    kind, backend = request.param.split(" by ")
    call = ask_candidates if kind == "candidates" else ask_catalog
    inputs = moved(CASE, "cuda"), CANDIDATES.cuda()
    call(*inputs, CASE.query.cuda(), backend)
    torch.cuda.synchronize()
    return lambda query: call(*inputs, query, backend)


def test_a_captured_graph_reads_what_its_inputs_hold_at_replay(ask):
    query = CASE.query.cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = ask(query)
    for seed in (1, 2):
        query.copy_(torch.randn(query.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        torch.cuda.synchronize()
        for found, want in zip(results, ask(query), strict=True):
            assert torch.equal(found, want)


def test_nothing_waits_for_the_gpu(ask):
    query = CASE.query.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with rk.ops.unchecked_ids():
            ask(query)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_work_goes_to_the_current_stream(ask):
    """A stream that still waits must hold the kernels back until their input is written."""
    query = CASE.query.cuda()
    want, late = ask(query), torch.zeros_like(query)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(query)
        with rk.ops.unchecked_ids():
            found = ask(late)
    stream.synchronize()
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_run_where_the_tensors_are(backend):
    query, table, ids = CASE.query, CASE.table, CANDIDATES
    first = rk.rank_candidates(query.cuda(0), table.cuda(0), ids.cuda(0), backend=backend)
    second = rk.rank_candidates(query.cuda(1), table.cuda(1), ids.cuda(1), backend=backend)
    assert second.above.device.index == 1
    assert torch.equal(first.above.cpu(), second.above.cpu())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtypes", [(F32, F32), (F32, BF16), (BF16, BF16)], ids=str)
def test_cpu_and_gpu_agree_on_candidates(backend, dtypes):
    case = make_catalog_case((300, 5_003, 384), dtypes, exact=False)
    ids = candidates_of(case)
    scores = reference.score_candidates(case.query, case.table, ids)
    assert_near(
        Backend(backend).rank_candidates(case.query, case.table, ids),
        rk.rank_candidates(case.query, case.table, ids),
        scores,
        scores[:, 0],
    )


@pytest.mark.parametrize("dtypes", [(F32, F32), (F32, F16), (F16, F16), (BF16, BF16)], ids=str)
def test_cpu_and_gpu_agree_on_catalogs(dtypes):
    case = make_catalog_case((300, 50_003, 384), dtypes, exact=False, exclusions=True)
    scores, _ = reference.score_catalog(case.query, case.table)
    target = scores.gather(1, case.targets.long()[:, None])[:, 0]
    found = Backend("triton").rank_catalog(*case.arguments, valid=case.valid)
    assert_near(found, rk.rank_catalog(*case.arguments, valid=case.valid), scores, target)


def assert_near(found: rk.RankCounts, want: rk.RankCounts, scores: Tensor, target: Tensor) -> None:
    """Ranks differ by no more than the competitors that rounding could put on either side."""
    assert torch.equal(found.total, want.total)
    doubt = ((scores - target[:, None]).abs() < 1e-3 * target.abs().clamp(min=1)[:, None]).sum(1)
    assert ((found.above - want.above).abs() <= doubt).all()
    assert (found.above != want.above).double().mean() < 0.2


@pytest.mark.parametrize("kind", ["plain", "int8", "int8-refined", "bf16-refined"])
@pytest.mark.parametrize("rows", [1, 70])
def test_targets_and_items_are_scored_alike(kind, rows):
    """Scores of single pairs, made apart, are those that were compared, to the bit."""
    table, refine = tables(CASE)[kind]
    query, targets = CASE.query[:rows], CASE.targets[:rows]
    triton = Backend("triton")
    plain = table if kind == "plain" else table.source if refine else table.values
    row_stats = None if kind == "plain" or refine else table.row_stats
    scores = triton.every_score(query, plain, row_stats)
    counts = triton.rank_catalog(query, table, targets, refine=refine)
    want = reference.rank_catalog(query, CASE.table, targets, scores=scores)
    for a, b in zip(counts, want, strict=True):
        assert torch.equal(a, b)
    found, ids = triton.topk_catalog(query, table, 10, refine=refine)
    best, best_ids = reference.topk_catalog(query, CASE.table, 10, scores=scores)
    assert torch.equal(ids, best_ids)
    assert torch.equal(found, best.float())


@pytest.mark.parametrize("backend", BACKENDS)
def test_tables_beyond_two_to_the_31_values(backend):
    num_items, dim = (1 << 22) + 3, 1031
    table = torch.zeros(num_items, dim, dtype=F16, device="cuda")
    used = torch.tensor([0, 1, (1 << 21) + 7, num_items - 2, num_items - 1], device="cuda")
    table[used] = torch.randint(-2, 3, (5, dim), device="cuda").half()
    query = torch.randint(-2, 3, (3, dim), device="cuda").float()
    want = query.double() @ table[used].double().T
    scores = rk.score_candidates(query, table, used.expand(3, -1), backend=backend)
    assert torch.equal(scores.double(), want)
    if backend == "triton":
        valid = torch.zeros(num_items, dtype=torch.bool, device="cuda")
        valid[used] = True
        best, ids = rk.topk_catalog(query, table, 5, valid=valid)
        order = want.sort(dim=1, descending=True, stable=True)
        assert torch.equal(best.double(), order.values)
        assert torch.equal(ids, used[order.indices])


def test_memory_does_not_grow_with_the_scores():
    query, table = torch.randn(2048, 64).cuda().half(), torch.randn(400_000, 64).cuda().half()
    targets = torch.arange(2048).cuda()
    rk.rank_catalog(query, table, targets)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rk.rank_catalog(query, table, targets)
    rk.topk_catalog(query, table, 10)
    taken = (torch.cuda.max_memory_allocated() - before) / 2**20
    assert taken < 150, f"{taken:.0f} MiB; a [B, N] matrix of scores would be 1,562"


def test_what_auto_means_on_a_gpu():
    query = torch.ones(1, 1, device="cuda")
    best = "cuda" if _backends.has_cuda_library() else "triton"
    assert _backends.resolve_backend("auto", query) == best
    assert _backends.resolve_backend("auto", query, cuda=False) == "triton"
    with torch.autocast("cuda", dtype=BF16):
        projected = torch.nn.functional.linear(query, query)
        assert rk.rank_candidates(projected, query, torch.zeros(1, 1).long().cuda()).total == 1
