"""Corrected metrics, checked against an enumeration of the distribution and simulated truth."""

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
from rl4rec_kernels.evaluation.correction import _round_sizes, sampled_rank_distribution
from rl4rec_kernels.metrics import parse_metrics
from rl4rec_kernels.ops.reference import metric_at_rank
from tests.errors import raises

METRICS = ("ndcg@3", "hit@2", "mrr@4", "mrr", "auc", "logrank", "rank")
SIZES = [(1, 2), (1, 5), (2, 6), (3, 4), (3, 8), (5, 9)]  # negatives, items


def enumerated_distribution(num_negs: int, num_items: int) -> torch.Tensor:
    """P(X = x | r), by drawing every possible set of negatives."""
    distribution = torch.zeros(num_items, num_negs + 1, dtype=torch.float64)
    for rank in range(1, num_items + 1):
        others = [other for other in range(1, num_items + 1) if other != rank]
        draws = list(itertools.combinations(others, num_negs))
        for draw in draws:
            distribution[rank - 1, sum(other < rank for other in draw)] += 1 / len(draws)
    return distribution


def distribution_of(num_negs: int, num_items: int) -> torch.Tensor:
    distribution = torch.full((num_items, num_negs + 1), math.nan, dtype=torch.float64)
    for rank, rows in sampled_rank_distribution(num_negs, num_items):
        distribution[rank - 1] = rows
    return distribution


def true_metrics(num_items: int, metrics=METRICS) -> torch.Tensor:
    ranks = torch.arange(1, num_items + 1, dtype=torch.float64)
    columns = [metric_at_rank(metric, ranks, num_items) for metric in parse_metrics(metrics)]
    return torch.stack(columns, 1)


def counts_of(above, tied, total) -> RankCounts:
    return RankCounts(*(torch.as_tensor(count) for count in (above, tied, total)))


def sampled_counts(ranks: torch.Tensor, num_negs: int, num_items: int, seed: int) -> RankCounts:
    """Counts of targets with given true ranks, among negatives drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.rand(len(ranks), num_items - 1, generator=generator)
    drawn = others.topk(num_negs).indices + 1  # ranks of the competitors, without the target's
    above = (drawn < ranks[:, None]).sum(1)
    return counts_of(above, torch.zeros_like(above), torch.full_like(above, num_negs + 1))


@pytest.mark.parametrize(("num_negs", "num_items"), SIZES)
def test_the_distribution_is_that_of_drawing_without_replacement(num_negs, num_items):
    torch.testing.assert_close(
        distribution_of(num_negs, num_items),
        enumerated_distribution(num_negs, num_items),
        rtol=1e-12,
        atol=1e-14,
    )


def test_the_distribution_among_a_million_items():
    num_negs, num_items = 99, 1_000_000
    rows = {}
    for rank, distribution in sampled_rank_distribution(num_negs, num_items):
        torch.testing.assert_close(distribution.sum(1), torch.ones(len(rank)).double())
        assert distribution.nbytes <= 16 << 20
        for true in (1, 7_000, 500_000, 1_000_000):
            if rank.min() <= true <= rank.max():
                rows[true] = distribution[int((rank == true).nonzero())]
    for true, row in rows.items():
        want = [
            math.comb(true - 1, x)
            * math.comb(num_items - true, num_negs - x)
            / math.comb(num_items - 1, num_negs)
            for x in range(num_negs + 1)
        ]
        torch.testing.assert_close(row, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=0)
    assert len(rows) == 4


@pytest.mark.parametrize(("num_negs", "num_items"), [*SIZES, (99, 12_101)])
def test_the_rank_estimate_is_unbiased(num_negs, num_items):
    estimate = unbiased_rank(torch.arange(1, num_negs + 2), num_negs, num_items)
    mean = distribution_of(num_negs, num_items) @ estimate
    torch.testing.assert_close(mean, torch.arange(1, num_items + 1).double(), rtol=1e-9, atol=0)
    assert unbiased_rank(1, num_negs, num_items) == 1
    assert unbiased_rank(num_negs + 1, num_negs, num_items) == pytest.approx(num_items)


@pytest.mark.parametrize("gamma", [1e-6, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("num_negs", "num_items"), SIZES)
def test_no_other_table_has_less_bias_and_variance(num_negs, num_items, flat, gamma):
    """Minimize the objective as it is written, by Newton's method, since it is quadratic."""
    distribution, truth = enumerated_distribution(num_negs, num_items), true_metrics(num_items)
    weights = torch.arange(1, num_items + 1).double() ** (0 if flat else -1)
    prior = weights / weights.sum()

    def objective(table):
        mean = distribution @ table
        variance = distribution @ table**2 - mean**2
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
    distribution = enumerated_distribution(num_negs, num_items)
    want = (distribution.T @ true_metrics(num_items)) / distribution.sum(0)[:, None]
    got = bias_variance_estimator(METRICS, num_negs, num_items, 1.0)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_small_gamma_is_unbiased_for_linear_metrics():
    """Rank and AUC are linear in the rank, so that they have unbiased estimates."""
    num_negs, num_items = 4, 9
    got = bias_variance_estimator(("rank", "auc"), num_negs, num_items, 1e-8)
    mean = enumerated_distribution(num_negs, num_items) @ got
    torch.testing.assert_close(mean, true_metrics(num_items, ("rank", "auc")), rtol=1e-4, atol=1e-4)
    spread = [
        bias_variance_estimator(("ndcg@3",), num_negs, num_items, gamma).std().item()
        for gamma in (1e-6, 1e-3, 0.1, 1.0)
    ]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("method", ["unbiased", "bias-variance"])
def test_nothing_is_corrected_if_all_items_were_drawn(method):
    above = torch.arange(20)
    counts = counts_of(above, torch.zeros_like(above), torch.full_like(above, 20))
    got = corrected_metrics(counts, METRICS, 20, method)
    torch.testing.assert_close(got, metrics_from_counts(counts, METRICS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["unbiased", "bias-variance"])
def test_ties_are_means_over_the_tied_ranks(method):
    def at(*ranks):
        counts = counts_of(
            torch.tensor(ranks), torch.zeros(len(ranks)).long(), torch.full((len(ranks),), 8)
        )
        return corrected_metrics(counts, METRICS, 50, method).double().mean(0)

    counts = counts_of(torch.tensor([2]), torch.tensor([3]), torch.tensor([8]))
    for ties, ranks in {
        "optimistic": [2],
        "pessimistic": [5],
        "average": [3, 4],
        "expected": [2, 3, 4, 5],
    }.items():
        got = corrected_metrics(counts, METRICS, 50, method, ties=ties)[0].double()
        torch.testing.assert_close(got, at(*ranks), rtol=1e-5, atol=1e-6)


def test_each_row_has_its_own_size():
    counts = counts_of(torch.tensor([1, 0, 2]), torch.tensor([0, 1, 0]), torch.tensor([4, 4, 9]))
    sizes = torch.tensor([30, 40, 30])
    for method in ("unbiased", "bias-variance"):
        got = corrected_metrics(counts, METRICS, sizes, method)
        for row, size in enumerate(sizes.tolist()):
            single = RankCounts(*(count[row : row + 1] for count in counts))
            want = corrected_metrics(single, METRICS, size, method)
            torch.testing.assert_close(got[row : row + 1], want, rtol=0, atol=0)


def test_sizes_are_rounded_slightly():
    sizes = torch.tensor([2, 2047, 2048, 2050, 12_101, 999_999, 2**40 + 12345])
    rounded = _round_sizes(sizes)
    assert rounded[:4].tolist() == sizes[:4].tolist()
    assert ((rounded - sizes).abs() <= sizes / 2000).all()
    assert len(_round_sizes(torch.arange(1_000_000, 1_000_200)).unique()) <= 2


def test_bias_variance_is_closer_to_the_truth_than_the_unbiased_rank():
    """Ranks as from a fair model: many at the top, and a long tail."""
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
    assert error["unbiased"][4] < 0.005, error  # linear in the rank, so unbiased


def corrected(counts, num_items, *options):
    return corrected_metrics(counts_of(*counts), ("mrr",), num_items, *options)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: unbiased_rank(1, 0, 5), ("num_negs", "from 1 to", 0)),
        (lambda: unbiased_rank(1, 5, 5), ("num_items", "num_negs", 5)),
        (lambda: unbiased_rank(-1, 99, 999), ("rank", "at least 1", -1)),
        (lambda: unbiased_rank(math.nan, 99, 999), ("rank", "at least 1", "nan")),
        (lambda: unbiased_rank(5000, 99, 999), ("rank", "at most 100", 5000)),
        (lambda: unbiased_rank(torch.tensor([1, 0]), 99, 999), ("rank", "from 1 to 100", 0)),
        (lambda: unbiased_rank(torch.tensor(math.nan), 99, 999), ("rank", "from 1 to 100", "nan")),
        (lambda: unbiased_rank(torch.tensor([101.0]), 99, 999), ("rank", "from 1 to 100", 101.0)),
        (lambda: corrected(([9], [0], [3]), 9), ("row 0", "above=9", "total=3")),
        (lambda: bias_variance_estimator(("mrr",), 5000, 9000), ("num_negs", 4096, 5000)),
        (lambda: bias_variance_estimator(("mrr",), 5, 9, 0.0), ("gamma", "at least 1e-08", 0.0)),
        (
            lambda: bias_variance_estimator(("mrr",), 5, 9, prior=lambda rank: 1),
            ("prior", "as many weights", 9, "int"),
        ),
        (
            lambda: bias_variance_estimator(("mrr",), 1, 2, prior=lambda rank: 2 - rank),
            ("prior", "rank 2"),
        ),
        (lambda: corrected(([0], [0], [1]), 9), ("row 0", "no negatives")),
        (lambda: corrected(([0], [0], [9]), 8), ("row 0", "8 negatives", "num_items 8")),
        (lambda: corrected(([0], [0], [3]), 8, "exact"), ("'exact'", "unbiased")),
        (
            lambda: corrected(([0], [0], [3]), torch.ones(2).long()),
            ("num_items", "int64 [1]", "(2,)"),
        ),
    ],
)
def test_invalid_arguments_are_refused(call, named):
    with raises(ValueError, *named):
        call()


def test_a_gamma_that_is_not_a_number_is_refused():
    with raises(TypeError, "gamma", "'0.1'"):
        bias_variance_estimator(("mrr",), 5, 9, "0.1")
