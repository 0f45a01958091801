"""NDCG, Hit and MRR of other libraries on real runs, compared with ours.

Where the definitions agree, so must the values, to 1e-6. Most peers order tied scores arbitrarily:
their values must then be between ours for the worst and for the best order.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import METRICS, Answers
from tests.peers import runs

# Metrics that a peer defines in another way.
OTHER_DEFINITIONS = {("RecTools", "ndcg@10")}
IDEAL_DCG = (1 / np.log2(np.arange(2, 12))).sum()


@pytest.fixture(params=METRICS)
def peer(request: pytest.FixtureRequest) -> str:
    """The name of each peer that is installed."""
    METRICS[request.param].need()
    return request.param


@pytest.fixture(params=["beauty", "ml-100k"])
def data(request: pytest.FixtureRequest) -> tuple[str, Path]:
    fixture = {"beauty": "beauty_dir", "ml-100k": "ml100k_dir"}[request.param]
    return request.param, request.getfixturevalue(fixture)


def check(peer: str, answers: Answers, ranked: runs.Ranked) -> None:
    low, high = ranked.ours("pessimistic"), ranked.ours("optimistic")
    for metric, values in answers.items():
        if (peer, metric) in OTHER_DEFINITIONS:
            values = values * IDEAL_DCG
        assert values.shape == low[metric].shape
        assert (values >= low[metric] - 1e-6).all(), metric
        assert (values <= high[metric] + 1e-6).all(), metric


def test_among_negatives(peer: str, data: tuple[str, Path]) -> None:
    ranked = runs.among_negatives(*data)
    assert 0 < ranked.ours()["hit@10"].mean() < 1
    check(peer, METRICS[peer].run(ranked.ids, ranked.scores), ranked)


def test_in_the_catalog(peer: str, data: tuple[str, Path]) -> None:
    ranked = runs.in_catalog(*data)
    assert 0 < ranked.ours()["mrr"].mean() < 1
    check(peer, METRICS[peer].run(ranked.ids, ranked.scores), ranked)


def test_ties_in_expectation(data: tuple[str, Path]) -> None:
    """With coarse scores most targets tie; for NDCG two peers average over all orders, as ours."""
    ranked = runs.coarse(runs.among_negatives(*data))
    assert (ranked.counts.tied > 0).float().mean() > 0.5
    for name in ("torchmetrics", "scikit-learn"):
        theirs = METRICS[name].need().run(ranked.ids, ranked.scores)["ndcg@10"]
        np.testing.assert_allclose(theirs, ranked.ours()["ndcg@10"], atol=1e-6)


def test_ties_in_any_order(peer: str, data: tuple[str, Path]) -> None:
    ranked = runs.coarse(runs.among_negatives(*data))
    check(peer, METRICS[peer].run(ranked.ids, ranked.scores), ranked)


def test_scores_below_zero(peer: str, data: tuple[str, Path]) -> None:
    """Scores of -1, -2, … in the same order change nothing, except that torchmetrics' MRR is 0."""
    ranked = runs.among_negatives(*data)
    assert not ranked.counts.tied.any()
    ranks = ranked.scores.argsort(dim=1, descending=True).argsort(dim=1)
    answers = METRICS[peer].run(ranked.ids, -1.0 - ranks)
    if peer == "torchmetrics":
        assert not answers.pop("mrr@10").any()
    check(peer, answers, ranked)
