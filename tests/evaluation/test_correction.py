"""Corrected metrics, against enumeration of the law and against simulated truth."""

import itertools
import math

import pytest
import torch

from rl4rec_kernels import (
    RankCounts,
    bias_variance_estimator,
    corrected_metrics,
    metrics_from_counts,
    unbiased_rank,
)
from rl4rec_kernels.evaluation.correction import _round_sizes, sampled_rank_law
from rl4rec_kernels.metrics import parse_metrics
from rl4rec_kernels.ops.reference import metric_at_rank

METRICS = ("ndcg@3", "hit@2", "mrr@4", "mrr", "auc", "logrank", "rank")
SIZES = [(1, 2), (1, 5), (2, 6), (3, 4), (3, 8), (5, 9)]  # negatives, items


def enumerated_law(num_negs: int, num_items: int) -> torch.Tensor:
    """P(X = x | r) by drawing every set of negatives there is."""
    law = torch.zeros(num_items, num_negs + 1, dtype=torch.float64)
    for rank in range(1, num_items + 1):
        others = [place for place in range(1, num_items + 1) if place != rank]
        draws = list(itertools.combinations(others, num_negs))
        for draw in draws:
            law[rank - 1, sum(place < rank for place in draw)] += 1 / len(draws)
    return law


def whole_law(num_negs: int, num_items: int) -> torch.Tensor:
    law = torch.full((num_items, num_negs + 1), math.nan, dtype=torch.float64)
    for rank, rows in sampled_rank_law(num_negs, num_items):
        law[rank - 1] = rows
    return law


def true_metrics(num_items: int, metrics=METRICS) -> torch.Tensor:
    ranks = torch.arange(1, num_items + 1, dtype=torch.float64)
    columns = [metric_at_rank(metric, ranks, num_items) for metric in parse_metrics(metrics)]
    return torch.stack(columns, 1)


def counts_of(above, tied, total) -> RankCounts:
    return RankCounts(*(torch.as_tensor(count) for count in (above, tied, total)))


def sampled_counts(ranks: torch.Tensor, num_negs: int, num_items: int, seed: int) -> RankCounts:
    """Counts of targets at true ranks among negatives that are drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.rand(len(ranks), num_items - 1, generator=generator)
    drawn = others.topk(num_negs).indices + 1  # ranks of the competitors, the target's left out
    above = (drawn < ranks[:, None]).sum(1)
    return counts_of(above, torch.zeros_like(above), torch.full_like(above, num_negs + 1))


@pytest.mark.parametrize(("num_negs", "num_items"), SIZES)
def test_law_is_that_of_drawing_without_replacement(num_negs, num_items):
    torch.testing.assert_close(
        whole_law(num_negs, num_items), enumerated_law(num_negs, num_items), rtol=1e-12, atol=1e-14
    )


def test_law_of_a_million_items():
    num_negs, num_items = 99, 1_000_000
    rows = {}
    for rank, law in sampled_rank_law(num_negs, num_items):
        torch.testing.assert_close(law.sum(1), torch.ones(len(rank)).double())
        assert law.nbytes <= 16 << 20
        for place in (1, 7_000, 500_000, 1_000_000):
            if rank.min() <= place <= rank.max():
                rows[place] = law[int((rank == place).nonzero())]
    for place, row in rows.items():
        want = [
            math.comb(place - 1, x)
            * math.comb(num_items - place, num_negs - x)
            / math.comb(num_items - 1, num_negs)
            for x in range(num_negs + 1)
        ]
        torch.testing.assert_close(row, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=0)
    assert len(rows) == 4


@pytest.mark.parametrize(("num_negs", "num_items"), [*SIZES, (99, 12_101)])
def test_the_rank_estimate_is_unbiased(num_negs, num_items):
    estimate = unbiased_rank(torch.arange(1, num_negs + 2), num_negs, num_items)
    mean = whole_law(num_negs, num_items) @ estimate
    torch.testing.assert_close(mean, torch.arange(1, num_items + 1).double(), rtol=1e-9, atol=0)
    assert unbiased_rank(1, num_negs, num_items) == 1
    assert unbiased_rank(num_negs + 1, num_negs, num_items) == pytest.approx(num_items)


@pytest.mark.parametrize("gamma", [1e-6, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("num_negs", "num_items"), SIZES)
def test_no_other_table_has_less_bias_and_variance(num_negs, num_items, flat, gamma):
    """Minimise the objective itself, written out, with Newton's method: it is quadratic."""
    law, truth = enumerated_law(num_negs, num_items), true_metrics(num_items)
    weights = torch.arange(1, num_items + 1).double() ** (0 if flat else -1)
    prior = weights / weights.sum()

    def objective(table):
        mean = law @ table
        variance = law @ table**2 - mean**2
        return (prior @ ((mean - truth) ** 2 + gamma * variance)).sum()

    got = bias_variance_estimator(
        METRICS, num_negs, num_items, gamma, prior=None if flat else lambda rank: 3 / rank
    )
    start = torch.zeros_like(got, requires_grad=True)
    gradient = torch.autograd.grad(objective(start), start)[0].reshape(-1)
    curvature = torch.autograd.functional.hessian(objective, start.detach())
    best = torch.linalg.solve(curvature.reshape(got.numel(), got.numel()), -gradient)
    torch.testing.assert_close(got, best.reshape(got.shape), rtol=1e-5, atol=1e-7)
    for step in torch.randn(5, *got.shape, generator=torch.Generator().manual_seed(0)):
        assert objective(got) < objective(got + 0.01 * step.double())


def test_gamma_one_is_the_posterior_mean():
    num_negs, num_items = 3, 8
    law = enumerated_law(num_negs, num_items)
    want = (law.T @ true_metrics(num_items)) / law.sum(0)[:, None]
    got = bias_variance_estimator(METRICS, num_negs, num_items, 1.0)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_small_gamma_is_unbiased_where_that_can_be():
    """Ranks and AUC are linear in the rank; there the rank estimate has no bias, nor has this."""
    num_negs, num_items = 4, 9
    got = bias_variance_estimator(("rank", "auc"), num_negs, num_items, 1e-8)
    mean = enumerated_law(num_negs, num_items) @ got
    torch.testing.assert_close(mean, true_metrics(num_items, ("rank", "auc")), rtol=1e-4, atol=1e-4)
    spread = [
        bias_variance_estimator(("ndcg@3",), num_negs, num_items, gamma).std().item()
        for gamma in (1e-6, 1e-3, 0.1, 1.0)
    ]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("method", ["unbiased", "bias-variance"])
def test_nothing_is_corrected_where_all_items_were_drawn(method):
    above = torch.arange(20)
    counts = counts_of(above, torch.zeros_like(above), torch.full_like(above, 20))
    got = corrected_metrics(counts, METRICS, 20, method)
    torch.testing.assert_close(got, metrics_from_counts(counts, METRICS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["unbiased", "bias-variance"])
def test_ties_are_means_of_their_places(method):
    def at(*places):
        counts = counts_of(
            torch.tensor(places), torch.zeros(len(places)).long(), torch.full((len(places),), 8)
        )
        return corrected_metrics(counts, METRICS, 50, method).double().mean(0)

    counts = counts_of(torch.tensor([2]), torch.tensor([3]), torch.tensor([8]))
    for ties, places in {
        "optimistic": [2],
        "pessimistic": [5],
        "average": [3, 4],
        "expected": [2, 3, 4, 5],
    }.items():
        got = corrected_metrics(counts, METRICS, 50, method, ties=ties)[0].double()
        torch.testing.assert_close(got, at(*places), rtol=1e-5, atol=1e-6)


def test_rows_have_their_own_sizes():
    counts = counts_of(torch.tensor([1, 0, 2]), torch.tensor([0, 1, 0]), torch.tensor([4, 4, 9]))
    sizes = torch.tensor([30, 40, 30])
    for method in ("unbiased", "bias-variance"):
        got = corrected_metrics(counts, METRICS, sizes, method)
        for row, size in enumerate(sizes.tolist()):
            single = RankCounts(*(count[row : row + 1] for count in counts))
            want = corrected_metrics(single, METRICS, size, method)
            torch.testing.assert_close(got[row : row + 1], want, rtol=0, atol=0)


def test_sizes_are_rounded_by_little():
    sizes = torch.tensor([2, 2047, 2048, 2050, 12_101, 999_999, 2**40 + 12345])
    rounded = _round_sizes(sizes)
    assert rounded[:4].tolist() == sizes[:4].tolist()
    assert ((rounded - sizes).abs() <= sizes / 2000).all()
    assert len(_round_sizes(torch.arange(1_000_000, 1_000_200)).unique()) <= 2


def test_bias_variance_is_nearer_to_the_truth_than_plugging_in():
    """Ranks as of a fair model: many at the top, a long tail."""
    num_items, num_negs, users = 2_000, 50, 4_000
    generator = torch.Generator().manual_seed(7)
    share = torch.rand(users, generator=generator).double() ** 2
    ranks = 1 + (share * num_items).long().clamp(max=num_items - 1)
    true_counts = counts_of(ranks - 1, torch.zeros_like(ranks), torch.full_like(ranks, num_items))
    metrics = ("ndcg@20", "hit@20", "mrr@20", "mrr", "auc")
    truth = metrics_from_counts(true_counts, metrics).mean(0)
    errors = {"sampled": [], "unbiased": [], "bias-variance": []}
    for seed in range(5):
        counts = sampled_counts(ranks, num_negs, num_items, seed)
        errors["sampled"].append(metrics_from_counts(counts, metrics).mean(0) - truth)
        for method in ("unbiased", "bias-variance"):
            estimate = corrected_metrics(counts, metrics, num_items, method).mean(0)
            errors[method].append(estimate - truth)
    error = {name: torch.stack(rows).square().mean(0).sqrt() for name, rows in errors.items()}
    assert (error["bias-variance"][:4] < error["unbiased"][:4] / 2).all(), error
    assert (error["unbiased"][:4] < error["sampled"][:4]).all(), error
    assert error["unbiased"][4] < 0.005, error  # linear in the rank, so without bias


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: unbiased_rank(1, 0, 5), "num_negs must be at least 1"),
        (lambda: unbiased_rank(1, 5, 5), "num_items is 5 but num_negs 5"),
        (lambda: bias_variance_estimator(("mrr",), 5000, 9000), "num_negs is 5000"),
        (lambda: bias_variance_estimator(("mrr",), 5, 9, 0.0), "gamma must be from 1e-08"),
        (lambda: bias_variance_estimator(("mrr",), 5, 9, prior=lambda rank: 1), "as many weights"),
        (lambda: bias_variance_estimator(("mrr",), 1, 2, prior=lambda rank: 2 - rank), "rank 2"),
        (lambda: corrected_metrics(counts_of([0], [0], [1]), ("mrr",), 9), "row 0 has no negat"),
        (lambda: corrected_metrics(counts_of([0], [0], [9]), ("mrr",), 8), "row 0 has 8 negatives"),
        (lambda: corrected_metrics(counts_of([0], [0], [3]), ("mrr",), 8, "exact"), "'exact'"),
        (
            lambda: corrected_metrics(counts_of([0], [0], [3]), ("mrr",), torch.ones(2).long()),
            r"int64 \[1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_gamma_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="gamma must be a number"):
        bias_variance_estimator(("mrr",), 5, 9, "0.1")
