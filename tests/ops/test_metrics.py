"""Metrics from counts, every backend, against their definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import rl4rec_kernels as rk
from rl4rec_kernels import RankCounts
from rl4rec_kernels.metrics import MAX_CUTOFF, parse_metrics, parse_ties
from rl4rec_kernels.ops import reference
from tests.errors import raises
from tests.ops.gpu import DEVICE, Backend, moved

TIES = ("expected", "optimistic", "pessimistic", "average")
METRICS = (
    "ndcg@1",
    "ndcg@10",
    "ndcg@100",
    "hit@1",
    "hit@7",
    "mrr@1",
    "mrr@20",
    "mrr",
    "auc",
    "logrank",
    "rank",
)


@pytest.fixture(params=["cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Backends that do not enumerate the ranks of a tie."""
    return Backend(request.param, "cpu" if request.param == "cpu" else DEVICE)


def counts_of(*rows: tuple[int, int, int]) -> RankCounts:
    return RankCounts(*torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1))


def assert_defined(got: torch.Tensor, counts: RankCounts, metrics, ties: str) -> None:
    want = reference.metrics_from_counts(counts, parse_metrics(metrics), parse_ties(ties))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50), st.sampled_from(TIES))
def test_closed_forms_equal_enumeration(above, tied, below, ties):
    counts = counts_of((above, tied, above + tied + 1 + below))
    assert_defined(rk.metrics_from_counts(counts, METRICS, ties), counts, METRICS, ties)


@pytest.mark.parametrize("ties", TIES)
def test_many_rows(backend, ties):
    generator = torch.Generator().manual_seed(0)
    above, below = torch.randint(0, 400, (2, 300), generator=generator)
    tied = torch.randint(0, 300, (300,), generator=generator) * (torch.arange(300) % 3 > 0)
    counts = RankCounts(above, tied, above + tied + 1 + below)
    got = backend.metrics_from_counts(counts, METRICS, ties)
    assert_defined(got, counts, METRICS, ties)
    columns = RankCounts(*torch.stack(tuple(counts), 1).unbind(1))  # not contiguous
    assert torch.equal(backend.metrics_from_counts(columns, METRICS, ties), got)


def test_known_values(backend):
    ranked = counts_of((0, 0, 100), (2, 0, 100), (10, 0, 100))
    got = backend.metrics_from_counts(ranked, METRICS[1:2])
    torch.testing.assert_close(got[:, 0], torch.tensor([1.0, 0.5, 0.0]))
    got = backend.metrics_from_counts(counts_of((0, 1, 4)), ("hit@1", "mrr", "auc", "rank"))
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.75, 5 / 6, 1.5]]))


def test_the_reference_backend_is_the_reference():
    counts = counts_of((3, 2, 9), (0, 0, 1))
    got = rk.metrics_from_counts(counts, METRICS, backend="reference")
    assert_defined(got, counts, METRICS, "expected")
    torch.testing.assert_close(got, rk.metrics_from_counts(counts, METRICS))


def test_a_target_without_competitors_has_the_best_rank(backend):
    got = backend.metrics_from_counts(counts_of((0, 0, 1)), ("auc", "logrank", "mrr", "ndcg@1"))
    assert got.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_millions_of_ties(backend):
    n, names = 10_000_000, ("hit@10", "mrr", "auc", "logrank", "rank")
    got = backend.metrics_from_counts(counts_of((0, n - 1, n)), names)
    harmonic = math.log(n) + 0.5772156649015329
    want = [10 / n, harmonic / n, 0.5, 1 - (math.lgamma(n + 1) / n) / math.log(n), (n + 1) / 2]
    torch.testing.assert_close(got[0].double(), torch.tensor(want).double(), rtol=1e-6, atol=1e-9)
    rank = backend.metrics_from_counts(counts_of((n, 1, 2 * n)), ("mrr",))
    torch.testing.assert_close(
        rank[0, 0].item(), (1 / (n + 1) + 1 / (n + 2)) / 2, rtol=1e-6, atol=0
    )


def test_the_largest_cutoff():
    n = 3 * MAX_CUTOFF
    got = rk.metrics_from_counts(counts_of((0, n - 1, n)), (f"ndcg@{MAX_CUTOFF}",))
    ranks = torch.arange(1, MAX_CUTOFF + 1, dtype=torch.float64)
    want = (1 / torch.log2(1 + ranks)).sum() / n
    torch.testing.assert_close(got[0, 0].double(), want, rtol=1e-6, atol=0)


def test_the_expectation_is_between_the_extremes(backend):
    counts = counts_of((3, 5, 40))
    best, mean, worst = (
        backend.metrics_from_counts(counts, ("ndcg@6", "mrr", "logrank"), ties)
        for ties in ("optimistic", "expected", "pessimistic")
    )
    assert (worst < mean).all()
    assert (mean < best).all()


def test_empty(backend):
    assert backend.metrics_from_counts(counts_of(), ("mrr",)).shape == (0, 1)
    assert backend.metrics_from_counts(counts_of((0, 0, 1)), ()).shape == (1, 0)


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        ("dcg@5", "unknown metric"),
        ("ndcg@ten", "unknown metric"),
        ("ndcg", "unknown metric"),
        (5, "unknown metric"),
        ("ndcg@0", "between 1"),
        (f"hit@{MAX_CUTOFF + 1}", "between 1"),
    ],
)
def test_unknown_metrics_are_rejected(metric, named):
    with raises(ValueError, named, repr(metric)):
        rk.metrics_from_counts(counts_of((0, 0, 1)), (metric,))


def test_bad_arguments_are_rejected():
    good = counts_of((0, 0, 1))
    with raises(TypeError, "counts.tied", "int64"):
        rk.metrics_from_counts(good._replace(tied=torch.zeros(1)), ("mrr",))
    with raises(ValueError, "counts.total", (2,)):
        rk.metrics_from_counts(good._replace(total=torch.ones(2).long()), ("mrr",))
    with raises(TypeError, "metrics", "sequence", "mrr"):
        rk.metrics_from_counts(good, "mrr")
    with raises(ValueError, "random"):
        rk.metrics_from_counts(good, ("mrr",), "random")
    with raises(ValueError, "cuda", "triton"):
        rk.metrics_from_counts(good, ("mrr",), backend="cuda")


def test_the_raw_operator_checks_too():
    op, counts = torch.ops.rl4rec.metrics_from_counts, counts_of((0, 0, 1))
    with raises(ValueError, "metric kind", 17):
        op(*counts, [17], [1], 0)
    with raises(ValueError, "tie rule", 9):
        op(*counts, [0], [1], 9)
    with raises(ValueError, "kinds", "cutoffs", "length"):
        op(*counts, [0], [], 0)
    with raises(ValueError, "counts.total", "int64"):
        op(*counts[:2], torch.ones(1), [0], [1], 0)
    with raises(ValueError, "counts.tied", "[1]"):
        op(counts[0], torch.ones(2).long(), counts[2], [0], [1], 0)


def test_opcheck(backend):
    counts = moved(counts_of((0, 3, 9), (2, 0, 5)), backend.device)
    torch.library.opcheck(backend.ops.metrics_from_counts.default, (*counts, [0, 4], [10, 1], 3))


def test_compile_without_graph_breaks(backend):
    def step(counts):
        return rk.metrics_from_counts(counts, ("ndcg@3", "logrank"), backend=backend.name)

    torch.compiler.reset()
    counts = moved(counts_of((0, 3, 9), (2, 0, 5)), backend.device)
    torch.testing.assert_close(torch.compile(step, fullgraph=True)(counts), step(counts))


def test_fake_tensors_have_the_right_shape():
    with FakeTensorMode():
        metrics = rk.metrics_from_counts(counts_of((0, 0, 1), (1, 1, 3)), METRICS)
        assert (metrics.shape, metrics.dtype) == ((2, len(METRICS)), torch.float32)
