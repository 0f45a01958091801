"""Estimates of the metrics of the whole catalog from ranks among sampled negatives.

A metric among m sampled negatives differs from the metric among all n items, and may even order
models differently. This module has two estimators of the latter, from W. Krichene and S. Rendle,
"On Sampled Metrics for Item Recommendation", KDD 2020. The negatives here are drawn *without*
replacement, so the sampled rank has a hypergeometric distribution, not a binomial one as in the
paper.

Let the target's rank among all n items be r (1 is best). Of its n - 1 competitors, r - 1 are above
it; m of them are drawn, uniformly and without replacement, and X of those are above it. Then

    P(X = x | r) = C(r - 1, x) C(n - r, m - x) / C(n - 1, m)
                 = C(m, x) C(n - 1 - m, r - 1 - x) / C(n - 1, r - 1),   x = 0 … m,
    E[X | r] = m (r - 1) / (n - 1),

and the sampled rank is 1 + X.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import choice, flag, number, shown, whole_number
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.metrics import (
    Metric,
    RankCounts,
    TieRule,
    Ties,
    check_count_values,
    check_counts,
    parse_metrics,
    parse_ties,
)
from rl4rec_kernels.ops.reference import metric_at_rank

Prior = Callable[[Tensor], Tensor]
"""From true ranks, float64 [R], to their relative frequencies, [R]."""

Method = Literal["unbiased", "bias-variance"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_GAMMA = 0.1

_MAX_NEGS = 4096  # the normal equations are a square float64 matrix of this size, 128 MiB
_MAX_ITEMS = 10**8  # for the bias-variance estimator: vectors of this length, in float64
_LARGEST = 2**53  # whole numbers that float64 has
_MIN_GAMMA = 1e-8  # less is lost in the rounding of float64
_BLOCK_BYTES = 48 << 20  # of all matrices for one block of ranks
_LONG_WORK = 20_000_000_000  # n m^2 that takes seconds, so that a progress bar is shown


@overload
def unbiased_rank(rank: Tensor, num_negs: int, num_items: int) -> Tensor: ...
@overload
def unbiased_rank(rank: float, num_negs: int, num_items: int) -> float: ...
def unbiased_rank(rank: Tensor | float, num_negs: int, num_items: int) -> Tensor | float:
    """Estimate the rank among all items from the rank among sampled negatives.

    The estimate is ``1 + (n - 1) (rank - 1) / m``. Its expectation is the true rank, since
    ``E[X | r] = m (r - 1) / (n - 1)``, with or without replacement. Metrics that are linear in the
    rank (``rank``, ``auc``) are then unbiased too. Others are not: a target above all its sampled
    negatives is estimated to rank first, so NDCG, Hit and MRR are too high if ranks are spread
    over the catalog. See `bias_variance_estimator`.

    Parameters
    ----------
    rank : Tensor or number
        Rank of the target among itself and the negatives, from 1 to m + 1; may be a half.
    num_negs : int
        m, the number of negatives, at least 1.
    num_items : int
        n, the number of items that could have been drawn, plus the target; at least m + 1.

    Returns
    -------
    Tensor (float64) or float
        The estimate, from 1 to n.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid or out of range.
    """
    num_negs, num_items = _check_sizes(num_negs, num_items)
    if isinstance(rank, Tensor):
        if (
            rank.layout != torch.strided
            or rank.is_meta
            or rank.is_complex()
            or rank.dtype == torch.bool
        ):
            raise TypeError(f"rank must be a dense tensor of numbers, got {shown(rank)}")
        bad = ~((rank >= 1) & (rank <= num_negs + 1))
        if bad.any():
            raise ValueError(
                f"rank must be from 1 to {num_negs + 1}, num_negs and the target, got "
                f"{rank[bad][0].item()}"
            )
        rank = rank.double()
    else:
        rank = number("rank", rank, 1, num_negs + 1)
    return 1 + (num_items - 1) * (rank - 1) / num_negs


def bias_variance_estimator(
    metrics: Sequence[str],
    num_negs: int,
    num_items: int,
    gamma: float = DEFAULT_GAMMA,
    *,
    prior: Prior | None = None,
) -> Tensor:
    """Return corrected values of metrics, one per sampled rank.

    They are the function f of the sampled rank that minimises

        sum over r of p(r) [ (E[f(X) | r] - metric(r))^2 + gamma Var[f(X) | r] ]

    With ``A[r, x] = P(X = x | r)`` (hypergeometric, see the module), ``P = diag(p)``,
    ``b[r] = metric(r)`` and ``c[x] = sum over r of p(r) A[r, x]``, the solution is

        f = ((1 - gamma) A' P A + gamma diag(c))^-1 A' P b.

    With gamma 1 this is the posterior mean of the metric given the sampled rank. As gamma goes to
    0, so does the bias, while the variance grows without bound. A mean over B users divides the
    variance by B but keeps the bias, so a smaller gamma may be better with many users. What m
    negatives cannot measure, such as a metric at k far below n / m, is filled in from the prior:
    with the default prior, a model that is strong at the top is underestimated.

    Parameters
    ----------
    metrics : sequence of str
        M metric names, see `metrics_from_counts`.
    num_negs : int
        m, from 1 to 4,096.
    num_items : int
        n, the number of items that could have been drawn, plus the target; from m + 1 to 10^8.
    gamma : float
        Weight of the variance, from 1e-8 to 1.
    prior : callable, optional
        Expected distribution of the true ranks: from ranks, float64 [R], to weights [R], positive
        and of any scale, such as ``lambda rank: rank**-0.5``. Default: uniform, as in the paper.

    Returns
    -------
    Tensor, float64, shape [num_negs + 1, M]
        Row x is for a target with x sampled negatives above it (sampled rank 1 + x). Values may be
        less than 0 or more than 1: only their means over users are meaningful.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Ranks are processed in blocks: apart from the ``[m + 1, m + 1]`` equations and vectors of length
    n, no matrix is larger than 16 MiB. The work is n m^2: n = 10^6 with m = 99 takes about one
    second. The equations are scaled by ``1 / sqrt(c)`` on both sides before they are solved, so
    that their condition number is at most 1 / gamma for any prior.

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
    if num_negs > _MAX_NEGS:
        raise ValueError(
            f"num_negs must be at most {_MAX_NEGS} for the bias-variance estimator, got "
            f"{num_negs}; draw fewer negatives, or use the unbiased one"
        )
    whole_number("num_items", num_items, 2, _MAX_ITEMS)
    root = _weights(prior, num_items).sqrt()
    normal = torch.zeros(num_negs + 1, num_negs + 1, dtype=torch.float64, device="cpu")
    marginal = normal.new_zeros(num_negs + 1)
    wanted = normal.new_zeros(num_negs + 1, len(parsed))
    long = num_items * num_negs**2 > _LONG_WORK
    for rank, probability in sampled_rank_distribution(num_negs, num_items, show_progress=long):
        weight = root[rank - 1]
        probability.mul_(weight[:, None])
        normal.addmm_(probability.T, probability)
        marginal.addmv_(probability.T, weight)
        wanted.addmm_(probability.T, weight[:, None] * _at_ranks(parsed, rank, num_items))
    scale = marginal.rsqrt()[:, None]
    system = (1 - gamma) * (scale * normal * scale.T)
    system.diagonal().add_(gamma)
    return scale * torch.cholesky_solve(scale * wanted, torch.linalg.cholesky(system))


def sampled_rank_distribution(
    num_negs: int, num_items: int, *, show_progress: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the distribution of the sampled rank given the true one, by blocks of true ranks.

    Yields
    ------
    tuple of Tensor
        True ranks, int64 [R], and ``P(X = x | r)``, float64 [R, num_negs + 1], whose rows sum to
        1. Computed from logarithms of factorials.
    """
    show_progress = flag("show_progress", show_progress)
    log_ways = _log_choose(num_negs)
    # C(n - 1 - m, r - 1 - x) = C(n - 1 - m, n - m - r + x) is a sliding window, moving with the
    # rank, over one row of Pascal's triangle; outside of the row it is 0.
    padding = (num_negs, num_negs)
    rest = torch.nn.functional.pad(_log_choose(num_items - 1 - num_negs), padding, value=-torch.inf)
    windows = rest.unfold(0, num_negs + 1, 1)  # row n - r, column x; a view
    block = max(1, _BLOCK_BYTES // (3 * 8 * (num_negs + 1)))
    for start in progress(range(0, num_items, block), "correcting", show=show_progress):
        stop = min(start + block, num_items)
        # The softmax also divides by C(n - 1, r - 1).
        above = torch.arange(start, stop, dtype=torch.int64, device="cpu")
        yield num_items - above, (windows[start:stop] + log_ways).softmax(1)


def _log_choose(n: int) -> Tensor:
    """Logarithms of C(n, k) for k = 0 … n, float64."""
    log_factorial = torch.lgamma(torch.arange(1, n + 2, dtype=torch.float64, device="cpu"))
    return log_factorial[n] - log_factorial - log_factorial.flip(0)


def corrected_metrics(
    counts: RankCounts,
    metrics: Sequence[str],
    num_items: int | Tensor,
    method: Method = "bias-variance",
    *,
    gamma: float = DEFAULT_GAMMA,
    prior: Prior | None = None,
    ties: TieRule = "expected",
) -> Tensor:
    """Estimate metrics of the whole catalog from counts among sampled negatives.

    Parameters
    ----------
    counts : RankCounts
        Of B targets among negatives that were drawn uniformly and without replacement, at least
        one per row.
    metrics : sequence of str
        M metric names, see `metrics_from_counts`.
    num_items : int or Tensor, int64 [B]
        Number of items that could have been drawn, plus the target, for all rows or per row. For
        example all items except the user's history.
    method : {"bias-variance", "unbiased"}
        ``"unbiased"`` replaces the rank with `unbiased_rank`, which is unbiased only for ``rank``
        and ``auc``. For the other see `bias_variance_estimator`.
    gamma, prior
        See `bias_variance_estimator`.
    ties : str
        As in `metrics_from_counts`. ``"expected"`` is the mean of the corrected values over the
        tied ranks, ``"average"`` their mean over the one or two ranks in the middle.

    Returns
    -------
    Tensor
        float32, shape [B, M]; computed in float64. A single row is a poor estimate and may be
        outside of the range of the metric: use means.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names the row.

    Notes
    -----
    The bias-variance estimator is solved once per distinct pair of ``total`` and ``num_items``. For
    it, ``num_items`` above 2,048 is rounded to 11 significant bits (by at most 0.05 %), so that
    histories of many lengths need few solutions.
    """
    parsed, rule = parse_metrics(metrics), parse_ties(ties)
    check_counts(counts)
    check_method(method)
    gamma = check_gamma(gamma)
    above, tied, total = on_cpu = RankCounts(*(count.cpu() for count in counts))
    check_count_values(on_cpu)
    sizes = _check_rows(total, num_items)
    if method == "bias-variance":
        sizes = torch.maximum(_round_sizes(sizes), total)
    result = total.new_empty(len(total), len(parsed), dtype=torch.float64)
    pairs, pair_of_row = torch.stack([total - 1, sizes], 1).unique(dim=0, return_inverse=True)
    work = (pairs[:, 0] ** 2 * pairs[:, 1]).double()
    # A single solution that takes long has its own progress bar.
    many = method == "bias-variance" and bool((work < _LONG_WORK).all() & (work.sum() > _LONG_WORK))
    for i, (num_negs, size) in enumerate(progress(pairs.tolist(), "correcting", show=many)):
        if method == "unbiased":
            ranks = torch.arange(1, num_negs + 2, dtype=torch.float64, device="cpu")
            rank = unbiased_rank(ranks, num_negs, size)
            table = _at_ranks(parsed, rank, size)
        else:
            table = bias_variance_estimator(metrics, num_negs, size, gamma, prior=prior)
        rows = (pair_of_row == i).nonzero().squeeze(1)
        result[rows] = _look_up(table, above[rows], tied[rows], rule)
    return result.float().to(counts.above.device)


def _at_ranks(metrics: list[Metric], rank: Tensor, num_items: int) -> Tensor:
    """The metrics at given ranks [R] among all items, float64 [R, M]."""
    rank = rank.double()
    columns = [metric_at_rank(metric, rank, num_items) for metric in metrics]
    return torch.stack(columns, 1) if columns else rank.new_empty(len(rank), 0)


def _look_up(table: Tensor, above: Tensor, tied: Tensor, ties: Ties) -> Tensor:
    """Values at the sampled ranks above + 1 … above + tied + 1, combined by a tie rule."""
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


def check_gamma(gamma: object) -> float:
    """Return the weight of the variance, from 1e-8 to 1, as a float."""
    return number("gamma", gamma, _MIN_GAMMA, 1)


def check_method(method: object) -> None:
    """Check the name of an estimator."""
    choice("method", method, METHODS)


def _check_sizes(num_negs: Any, num_items: Any) -> tuple[int, int]:
    num_negs = whole_number("num_negs", num_negs, 1, _LARGEST)
    num_items = whole_number("num_items", num_items, 2, _LARGEST)
    if num_items <= num_negs:
        raise ValueError(
            f"num_items must be more than num_negs, {num_negs}, since it counts the target too, "
            f"got {num_items}"
        )
    return num_negs, num_items


def _weights(prior: Prior | None, num_items: int) -> Tensor:
    """The probability of every true rank, float64 [num_items]."""
    rank = torch.arange(1, num_items + 1, dtype=torch.float64, device="cpu")
    if prior is not None and not callable(prior):
        raise TypeError(f"prior must be a function of ranks, or None, got {shown(prior)}")
    given = torch.ones_like(rank) if prior is None else prior(rank)
    if not isinstance(given, Tensor) or given.shape != rank.shape:
        raise ValueError(
            f"prior must return as many weights as it gets ranks, {num_items}, got "
            f"{getattr(given, 'shape', type(given).__name__)}"
        )
    weights = given.double()
    weights = weights / weights.sum()
    bad = ~(weights.isfinite() & (weights > 0))
    if bad.any():
        rank = rank[bad][0]
        raise ValueError(
            f"prior must return positive, finite weights, but not so for rank {rank:g}"
        )
    return weights


def _check_rows(total: Tensor, num_items: Any) -> Tensor:
    """The number of items per row, int64 [B]."""
    if isinstance(num_items, Tensor):
        if num_items.dtype != torch.int64 or num_items.shape != total.shape:
            raise ValueError(
                f"num_items must be a number or int64 [{len(total)}], got {num_items.dtype} "
                f"{tuple(num_items.shape)}"
            )
        sizes = num_items.cpu()
    else:
        sizes = torch.full_like(total, whole_number("num_items", num_items, 2, _LARGEST))
    for row in (total < 2).nonzero().flatten().tolist():
        raise ValueError(f"counts: row {row} has no negatives; leave it out")
    for row in (sizes < total).nonzero().flatten().tolist():
        raise ValueError(
            f"num_items must be more than the negatives of a row, but row {row} has "
            f"{total[row] - 1} negatives and num_items {sizes[row]}"
        )
    return sizes
