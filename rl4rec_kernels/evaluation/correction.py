"""What sampled ranks say about the metrics of the whole catalog.

A metric among m sampled negatives is not the metric among all n items, and can even order models
differently. Two estimators of the latter are here, from W. Krichene and S. Rendle, "On Sampled
Metrics for Item Recommendation", KDD 2020. Our negatives are drawn *without* replacement, so the
law of the sampled rank is hypergeometric where the paper's is binomial.

Let the target's rank among all n items be r (1 is best). Of its n - 1 competitors, r - 1 are above
it; m of them are drawn, uniformly and without replacement, and X of those are above it. Then

    P(X = x | r) = C(r - 1, x) C(n - r, m - x) / C(n - 1, m)
                 = C(m, x) C(n - 1 - m, r - 1 - x) / C(n - 1, r - 1),   x = 0 … m,
    E[X | r] = m (r - 1) / (n - 1),

and the sampled rank is 1 + X.
"""

from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.metrics import (
    Metric,
    RankCounts,
    Ties,
    check_counts,
    parse_metrics,
    parse_ties,
)
from rl4rec_kernels.ops.reference import metric_at_rank

Prior = Callable[[Tensor], Tensor]
"""From true ranks, float64 [R], to how often each is expected, [R]."""

METHODS = ("unbiased", "bias-variance")
DEFAULT_GAMMA = 0.1

_MOST_NEGS = 4096  # the normal equations are a float64 matrix of that side, 128 MiB
_LEAST_GAMMA = 1e-8  # less is lost in the rounding of float64
_BLOCK_BYTES = 48 << 20  # of all the matrices that one block of ranks needs
_LONG_WORK = 20_000_000_000  # n m^2 from which on a progress bar is shown: seconds


@overload
def unbiased_rank(rank: Tensor, num_negs: int, num_items: int) -> Tensor: ...
@overload
def unbiased_rank(rank: float, num_negs: int, num_items: int) -> float: ...
def unbiased_rank(rank: Any, num_negs: int, num_items: int) -> Any:
    """Estimate the rank among all items from the rank among sampled negatives.

    ``1 + (n - 1) (rank - 1) / m``: its expectation is the true rank, for ``E[X | r] =
    m (r - 1) / (n - 1)``, with replacement or without. What is linear in the rank (``rank``,
    ``auc``) is then unbiased too; a cut-off or concave metric of it is not: a target that no
    sampled negative beats is taken to stand first, so NDCG, Hit and MRR come out too high where
    ranks are spread over the catalog. See `bias_variance_estimator`.

    Parameters
    ----------
    rank : Tensor or number
        Rank of the target among itself and the negatives, from 1; halves may occur.
    num_negs : int
        m, the negatives of that row, from 1.
    num_items : int
        n, the items that could have been drawn, plus the target; at least m + 1.

    Returns
    -------
    Tensor (float64) or float
        The estimate, from 1 to n.

    Raises
    ------
    TypeError, ValueError
        If a number does not fit.
    """
    num_negs, num_items = _check_sizes(num_negs, num_items)
    if isinstance(rank, Tensor):
        rank = rank.double()
    return 1 + (num_items - 1) * (rank - 1) / num_negs


def bias_variance_estimator(
    metrics: Sequence[str],
    num_negs: int,
    num_items: int,
    gamma: float = DEFAULT_GAMMA,
    *,
    prior: Prior | None = None,
) -> Tensor:
    """Corrected values of metrics, one for each sampled rank.

    Of all functions f of the sampled rank, the one that minimises

        sum over r of p(r) [ (E[f(X) | r] - metric(r))^2 + gamma Var[f(X) | r] ]

    With ``A[r, x] = P(X = x | r)`` (hypergeometric, see the module), ``P = diag(p)``, ``b[r] =
    metric(r)`` and ``c[x] = sum over r of p(r) A[r, x]`` it is

        f = ((1 - gamma) A' P A + gamma diag(c))^-1 A' P b.

    At gamma 1 this is the posterior mean of the metric given the sampled rank; towards 0 the bias
    goes and the variance grows without bound. The mean over B users has a B-th of the variance and
    all of the bias, so with many users a smaller gamma may serve better. What m negatives cannot
    tell, such as a metric at k far below n / m, is filled in from the prior: with flat ranks a
    model that is strong at the top comes out too low.

    Parameters
    ----------
    metrics : sequence of str
        M metric names, see `metrics_from_counts`.
    num_negs : int
        m, from 1 to 4,096.
    num_items : int
        n, the items that could have been drawn, plus the target; at least m + 1.
    gamma : float
        Weight of the variance, above 0 (at least 1e-8) and at most 1.
    prior : callable, optional
        How often true ranks are expected: from ranks, float64 [R], to weights [R], positive and
        of any scale, such as ``lambda rank: rank**-0.5``. By default all alike, as in the paper.

    Returns
    -------
    Tensor, float64, shape [num_negs + 1, M]
        Row x is for a target with x sampled negatives above it (sampled rank 1 + x). Values may be
        below 0 or above 1: only their means over users are estimates.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    Ranks are visited in blocks: beside the ``[m + 1, m + 1]`` equations and vectors of length n no
    matrix above 16 MiB is made. The work is n m^2; n = 10^6 with m = 99 takes a second or so. The
    equations are scaled by ``1 / sqrt(c)`` on both sides before they are solved: their condition
    number is then at most 1 / gamma, whatever the prior.

    Examples
    --------
    >>> bias_variance_estimator(("hit@1",), 2, 3)  # all negatives drawn: nothing to correct
    tensor([[1.],
            [0.],
            [0.]], dtype=torch.float64)
    """
    parsed = parse_metrics(metrics)
    num_negs, num_items = _check_sizes(num_negs, num_items)
    gamma = check_gamma(gamma)
    if num_negs > _MOST_NEGS:
        raise ValueError(
            f"num_negs is {num_negs}, but the bias-variance estimator solves a system "
            f"of that size and takes up to {_MOST_NEGS}; draw fewer negatives, or use "
            "the unbiased rank estimate"
        )
    root = _weights(prior, num_items).sqrt()
    places = num_negs + 1
    normal = torch.zeros(places, places, dtype=torch.float64)
    mean_law = torch.zeros(places, dtype=torch.float64)
    wanted = torch.zeros(places, len(parsed), dtype=torch.float64)
    long = num_items * num_negs**2 > _LONG_WORK
    for rank, law in sampled_rank_law(num_negs, num_items, show_progress=long):
        weight = root[rank - 1]
        law.mul_(weight[:, None])
        normal.addmm_(law.T, law)
        mean_law.addmv_(law.T, weight)
        wanted.addmm_(law.T, weight[:, None] * _at_ranks(parsed, rank.double(), num_items))
    scale = mean_law.rsqrt()[:, None]
    system = (1 - gamma) * (scale * normal * scale.T)
    system.diagonal().add_(gamma)
    return scale * torch.cholesky_solve(scale * wanted, torch.linalg.cholesky(system))


def sampled_rank_law(
    num_negs: int, num_items: int, *, show_progress: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The law of the sampled rank given the true one, by blocks of true ranks.

    Yields
    ------
    tuple of Tensor
        True ranks, int64 [R], and ``P(X = x | r)``, float64 [R, num_negs + 1], whose rows sum to
        1. Computed from logarithms of factorials.
    """
    log_ways = _log_choose(num_negs)
    # C(n - 1 - m, r - 1 - x) = C(n - 1 - m, n - m - r + x) is one row of Pascal's triangle seen
    # through a window that moves with the rank; outside of the row it is 0.
    padding = (num_negs, num_negs)
    rest = torch.nn.functional.pad(_log_choose(num_items - 1 - num_negs), padding, value=-torch.inf)
    windows = rest.unfold(0, num_negs + 1, 1)  # row n - r, column x; a view
    block = max(1, _BLOCK_BYTES // (3 * 8 * (num_negs + 1)))
    for start in progress(range(0, num_items, block), "correcting", show=show_progress):
        stop = min(start + block, num_items)
        law = (windows[start:stop] + log_ways).softmax(1)  # C(n - 1, r - 1) goes by scaling
        yield num_items - torch.arange(start, stop), law


def _log_choose(n: int) -> Tensor:
    """Logarithms of C(n, k) for k = 0 … n, float64."""
    log_factorial = torch.lgamma(torch.arange(1, n + 2, dtype=torch.float64))
    return log_factorial[n] - log_factorial - log_factorial.flip(0)


def corrected_metrics(
    counts: RankCounts,
    metrics: Sequence[str],
    num_items: int | Tensor,
    method: str = "bias-variance",
    *,
    gamma: float = DEFAULT_GAMMA,
    prior: Prior | None = None,
    ties: str = "expected",
) -> Tensor:
    """Estimate metrics of the whole catalog from counts among sampled negatives.

    Parameters
    ----------
    counts : RankCounts
        Of B targets among negatives that were drawn uniformly and without replacement; a row's
        negatives are ``total - 1``, at least one.
    metrics : sequence of str
        M metric names, see `metrics_from_counts`.
    num_items : int or Tensor, int64 [B]
        For all rows or each: the items that could have been drawn, plus the target. For example
        all items less the user's history.
    method : {"bias-variance", "unbiased"}
        ``"unbiased"`` puts `unbiased_rank` in the place of the rank, which is unbiased for
        ``rank`` and ``auc`` only; see `bias_variance_estimator` for the other.
    gamma, prior
        Of the bias-variance estimator, see there.
    ties : str
        As in `metrics_from_counts`; ``"expected"`` is the mean of the corrected values over the
        tied places, ``"average"`` their mean over the one or two places in the middle.

    Returns
    -------
    Tensor
        float32, shape [B, M]; computed in float64. A single row is a poor estimate and may be
        outside of a metric's range: take means.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names the row.

    Notes
    -----
    The bias-variance estimator is solved once for every pair of ``total`` and ``num_items``. For
    it ``num_items`` above 2,048 is rounded to 11 significant bits (by at most 0.05 %), so that
    histories of many lengths need few solutions.
    """
    parsed, rule = parse_metrics(metrics), parse_ties(ties)
    check_counts(counts)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    gamma = check_gamma(gamma)
    above, tied, total = (count.cpu() for count in counts)
    sizes = _check_rows(total, num_items)
    if method == "bias-variance":
        sizes = torch.maximum(_round_sizes(sizes), total)
    result = torch.empty(len(total), len(parsed), dtype=torch.float64)
    pairs, pair_of_row = torch.stack([total - 1, sizes], 1).unique(dim=0, return_inverse=True)
    work = (pairs[:, 0] ** 2 * pairs[:, 1]).double()
    # A single solution that takes long has a bar of its own.
    many = method == "bias-variance" and bool((work < _LONG_WORK).all() & (work.sum() > _LONG_WORK))
    for i, (num_negs, size) in enumerate(progress(pairs.tolist(), "correcting", show=many)):
        if method == "unbiased":
            table = _unbiased_table(parsed, num_negs, size)
        else:
            table = bias_variance_estimator(metrics, num_negs, size, gamma, prior=prior)
        rows = (pair_of_row == i).nonzero().squeeze(1)
        result[rows] = _look_up(table, above[rows], tied[rows], rule)
    return result.float().to(counts.above.device)


def _unbiased_table(metrics: list[Metric], num_negs: int, num_items: int) -> Tensor:
    """The metrics at the unbiased estimate of every sampled rank, float64 [num_negs + 1, M]."""
    rank = unbiased_rank(torch.arange(1, num_negs + 2), num_negs, num_items)
    return _at_ranks(metrics, rank, num_items)


def _at_ranks(metrics: list[Metric], rank: Tensor, num_items: int) -> Tensor:
    """The metrics at given ranks [R] among all items, float64 [R, M]."""
    columns = [metric_at_rank(metric, rank, num_items) for metric in metrics]
    return torch.stack(columns, 1) if columns else rank.new_empty(len(rank), 0)


def _look_up(table: Tensor, above: Tensor, tied: Tensor, ties: Ties) -> Tensor:
    """Values of the sampled ranks above + 1 … above + tied + 1 under a tie rule."""
    if ties is Ties.OPTIMISTIC:
        return table[above]
    if ties is Ties.PESSIMISTIC:
        return table[above + tied]
    if ties is Ties.AVERAGE:
        return (table[above + tied // 2] + table[above + (tied + 1) // 2]) / 2
    sums = torch.nn.functional.pad(table.cumsum(0), (0, 0, 1, 0))
    mean = (sums[above + tied + 1] - sums[above]) / (tied + 1)[:, None]
    return torch.where(tied[:, None] == 0, table[above], mean)


def _round_sizes(sizes: Tensor) -> Tensor:
    """Round to 11 significant bits."""
    exponent = torch.frexp(sizes.double()).exponent - 11
    step = torch.ones_like(sizes) << exponent.clamp(min=0)
    return (sizes + step // 2) // step * step


def check_gamma(gamma: Any) -> float:
    """Check the weight of the variance.

    Raises
    ------
    TypeError, ValueError
        If it is no number above 0 and up to 1.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, Real):
        raise TypeError(f"gamma must be a number, got {gamma!r}")
    gamma = float(gamma)
    if not _LEAST_GAMMA <= gamma <= 1:
        raise ValueError(
            f"gamma must be from {_LEAST_GAMMA} to 1, got {gamma}: without a weight "
            "on the variance it has no bound; try 0.01 to 0.1"
        )
    return gamma


def _check_sizes(num_negs: Any, num_items: Any) -> tuple[int, int]:
    num_negs = whole_number("num_negs", num_negs, 1)
    num_items = whole_number("num_items", num_items, 2)
    if num_items <= num_negs:
        raise ValueError(
            f"num_items is {num_items} but num_negs {num_negs}: it must be at least "
            "one more: it counts what could be drawn, and the target"
        )
    return num_negs, num_items


def _weights(prior: Prior | None, num_items: int) -> Tensor:
    """The probability of every true rank, float64 [num_items]."""
    rank = torch.arange(1, num_items + 1, dtype=torch.float64)
    given = torch.ones_like(rank) if prior is None else prior(rank)
    if not isinstance(given, Tensor) or given.shape != rank.shape:
        raise ValueError(
            f"prior must turn ranks [{num_items}] into as many weights, got "
            f"{getattr(given, 'shape', type(given).__name__)}"
        )
    weights = given.double()
    weights = weights / weights.sum()
    bad = ~(weights.isfinite() & (weights > 0))
    if bad.any():
        raise ValueError(
            f"prior must be positive and finite, but rank {int(bad.nonzero()[0]) + 1} "
            "is not; give ranks that were never seen a small weight"
        )
    return weights


def _check_rows(total: Tensor, num_items: Any) -> Tensor:
    """Every row's number of items, int64 [B]."""
    if isinstance(num_items, Tensor):
        if num_items.dtype != torch.int64 or num_items.shape != total.shape:
            raise ValueError(
                f"num_items must be a number or int64 [{len(total)}], got "
                f"{num_items.dtype} {tuple(num_items.shape)}"
            )
        sizes = num_items.cpu()
    else:
        sizes = torch.full_like(total, whole_number("num_items", num_items, 2))
    alone, small = (total < 2).nonzero(), (sizes < total).nonzero()
    if alone.numel():
        raise ValueError(f"row {int(alone[0])} has no negatives to correct from; leave it out")
    if small.numel():
        row = int(small[0])
        raise ValueError(
            f"row {row} has {int(total[row]) - 1} negatives, but num_items is "
            f"{int(sizes[row])}: it must count all that could be drawn, and the "
            "target"
        )
    return sizes
