"""Metrics from counts, against their definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels import RankCounts, metrics_from_counts
from rl4rec_kernels.metrics import MAX_CUTOFF, parse_metrics, parse_ties
from rl4rec_kernels.ops import reference

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


def counts_of(*rows: tuple[int, int, int]) -> RankCounts:
    return RankCounts(*torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50), st.sampled_from(TIES))
def test_closed_forms_equal_enumeration(above, tied, below, ties):
    counts = counts_of((above, tied, above + tied + 1 + below))
    want = reference.metrics_from_counts(counts, parse_metrics(METRICS), parse_ties(ties))
    got = metrics_from_counts(counts, METRICS, ties)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


def test_known_values():
    got = metrics_from_counts(counts_of((0, 0, 100), (2, 0, 100), (10, 0, 100)), METRICS[1:2])
    torch.testing.assert_close(got[:, 0], torch.tensor([1.0, 0.5, 0.0]))
    got = metrics_from_counts(counts_of((0, 1, 4)), ("hit@1", "mrr", "auc", "rank"))
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.75, 5 / 6, 1.5]]))


def test_a_target_alone_has_the_best_rank():
    got = metrics_from_counts(counts_of((0, 0, 1)), ("auc", "logrank", "mrr", "ndcg@1"))
    assert got.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_millions_of_ties():
    n = 10_000_000
    got = metrics_from_counts(counts_of((0, n - 1, n)), ("hit@10", "mrr", "auc", "logrank", "rank"))
    harmonic = math.log(n) + 0.5772156649015329
    want = [10 / n, harmonic / n, 0.5, 1 - (math.lgamma(n + 1) / n) / math.log(n), (n + 1) / 2]
    torch.testing.assert_close(got[0].double(), torch.tensor(want).double(), rtol=1e-6, atol=1e-9)
    rank = metrics_from_counts(counts_of((n, 1, 2 * n)), ("mrr",))
    torch.testing.assert_close(
        rank[0, 0].item(), (1 / (n + 1) + 1 / (n + 2)) / 2, rtol=1e-6, atol=0
    )


def test_expectation_lies_between_the_extremes():
    counts = counts_of((3, 5, 40))
    best, mean, worst = (
        metrics_from_counts(counts, ("ndcg@6", "mrr", "logrank"), ties)
        for ties in ("optimistic", "expected", "pessimistic")
    )
    assert (worst < mean).all()
    assert (mean < best).all()


def test_empty():
    assert metrics_from_counts(counts_of(), ("mrr",)).shape == (0, 1)
    assert metrics_from_counts(counts_of((0, 0, 1)), ()).shape == (1, 0)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("precision@5", "unknown metric"),
        ("ndcg@ten", "unknown metric"),
        ("ndcg", "unknown metric"),
        (5, "unknown metric 5"),
        ("ndcg@0", "k must be between 1"),
        (f"hit@{MAX_CUTOFF + 1}", "k must be between 1"),
    ],
)
def test_unknown_metrics_are_refused(metric, words):
    with pytest.raises(ValueError, match=words):
        metrics_from_counts(counts_of((0, 0, 1)), (metric,))


def test_bad_counts_are_refused():
    good = counts_of((0, 0, 1))
    with pytest.raises(TypeError, match=r"counts.tied must be int64"):
        metrics_from_counts(good._replace(tied=torch.zeros(1)), ("mrr",))
    with pytest.raises(ValueError, match=r"counts.total is \(2,\)"):
        metrics_from_counts(good._replace(total=torch.ones(2).long()), ("mrr",))
    with pytest.raises(TypeError, match="sequence of names"):
        metrics_from_counts(good, "mrr")
