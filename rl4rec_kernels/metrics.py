"""Rank metrics of one relevant item, as pure functions of rank counts."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

MAX_CUTOFF = 1 << 20
"""The largest k of ``metric@k``; it bounds a table of discounts (8 MiB)."""


class RankCounts(NamedTuple):
    """How the target of every row stands among its candidates; each field is int64, shape [B].

    Attributes
    ----------
    above : Tensor
        Candidates scored strictly higher than the target.
    tied : Tensor
        Other candidates scored exactly the same.
    total : Tensor
        Candidates counted, the target included.
    """

    above: Tensor
    tied: Tensor
    total: Tensor


class Kind(IntEnum):
    """Families of metrics; the numbers are those of csrc/cpu/reward_candidates.cpp."""

    NDCG = 0
    HIT = 1
    MRR = 2
    AUC = 3
    LOGRANK = 4
    RANK = 5


class Ties(IntEnum):
    """Tie rules; the numbers are those of csrc/cpu/reward_candidates.cpp."""

    OPTIMISTIC = 0
    PESSIMISTIC = 1
    AVERAGE = 2
    EXPECTED = 3


class Metric(NamedTuple):
    """A metric with its cut-off; ``cutoff`` is 2^62 where there is none."""

    kind: Kind
    cutoff: int


_NO_CUTOFF = 1 << 62
_KINDS = {kind.name.lower(): kind for kind in Kind}
_TIES = {rule.name.lower(): rule for rule in Ties}
_KNOWN = "ndcg@k, hit@k, mrr@k, mrr, auc, logrank, rank"


def parse_metric(name: str) -> Metric:
    """Read a metric's name.

    Raises
    ------
    ValueError
        If the name is not one of ndcg@k, hit@k, mrr@k, mrr, auc, logrank, rank, or k is not
        between 1 and `MAX_CUTOFF`.
    """
    # No regular expression, no Kind[...]: torch.compile of torch 2.10 can trace neither.
    family, at, k = name.partition("@") if isinstance(name, str) else ("", "", "")
    if family in ("ndcg", "hit", "mrr") and at and k.removeprefix("-").isdecimal():
        cutoff = int(k)
        if not 1 <= cutoff <= MAX_CUTOFF:
            raise ValueError(f"metric {name!r}: k must be between 1 and {MAX_CUTOFF}")
        return Metric(_KINDS[family], cutoff)
    if family in ("mrr", "auc", "logrank", "rank") and not at:
        return Metric(_KINDS[family], _NO_CUTOFF)
    raise ValueError(f"unknown metric {name!r}; known are {_KNOWN}, with k a whole number >= 1")


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Read a list of metric names; a single string is refused, for it is a common slip."""
    if isinstance(names, str):
        raise TypeError(
            f"metrics must be a sequence of names, got the string {names!r}; write ({names!r},)"
        )
    return [parse_metric(name) for name in names]


def parse_ties(ties: str) -> Ties:
    """Read a tie rule's name.

    Raises
    ------
    ValueError
        If it is none of optimistic, pessimistic, average, expected.
    """
    if ties not in _TIES:
        raise ValueError(f"unknown tie rule {ties!r}; known are {', '.join(_TIES)}")
    return _TIES[ties]


def check_counts(counts: RankCounts) -> None:
    """Check that counts are three int64 tensors of one shape [B].

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    for name, count in zip(RankCounts._fields, counts, strict=True):
        if count.dtype != torch.int64:
            raise TypeError(f"counts.{name} must be int64, got {count.dtype}")
        if count.shape != counts[0].shape or count.dim() != 1:
            raise ValueError(
                f"counts must be three tensors of one shape [B], but counts.{name} "
                f"is {tuple(count.shape)}"
            )


def metrics_from_counts(
    counts: RankCounts, metrics: Sequence[str], ties: str = "expected"
) -> Tensor:
    """Compute rank metrics from counts.

    With one relevant item at rank r among `total` candidates:

    ========= ==========================================================
    ndcg@k    [r <= k] / log2(1 + r)
    hit@k     [r <= k]
    mrr@k     [r <= k] / r; ``mrr`` is without the cut-off
    auc       (total - r) / (total - 1); 1 where the target stands alone
    logrank   1 - log(r) / log(total); 1 where the target stands alone
    rank      r
    ========= ==========================================================

    Parameters
    ----------
    counts : RankCounts
        Counts of B rows, on any device.
    metrics : sequence of str
        M metric names.
    ties : {"expected", "optimistic", "pessimistic", "average"}
        The rank r of a target with `above` competitors above and `tied` at its score: optimistic
        1 + above, pessimistic 1 + above + tied, average 1 + above + tied / 2; expected is the mean
        of the metric over r = 1 + above ... 1 + above + tied, so that a constant model earns what
        chance earns (McSherry & Najork, ECIR 2008).

    Returns
    -------
    Tensor
        float32, shape [B, M]; computed in float64.

    Raises
    ------
    ValueError
        On an unknown metric or tie rule, or counts of different shapes.
    TypeError
        If the counts are not int64.

    Examples
    --------
    >>> counts = RankCounts(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))
    >>> metrics_from_counts(counts, ("hit@1", "rank"))
    tensor([[0.5000, 1.5000]])
    """
    parsed, rule = parse_metrics(metrics), parse_ties(ties)
    check_counts(counts)
    above, tied, total = counts
    if not parsed:
        return above.new_empty((above.shape[0], 0), dtype=torch.float32)
    if rule is Ties.EXPECTED:
        columns = [_expected(metric, above, tied, total) for metric in parsed]
    else:
        shift = {Ties.OPTIMISTIC: 0.0, Ties.AVERAGE: 0.5, Ties.PESSIMISTIC: 1.0}[rule]
        rank = 1 + above.double() + shift * tied.double()
        columns = [at_rank(metric, rank, total.double()) for metric in parsed]
    return torch.stack(columns, dim=1).float()


def at_rank(metric: Metric, rank: Tensor, total: Tensor) -> Tensor:
    """The metric at a given rank, which may lie between whole ones; float64, as `rank` is."""
    kind, cutoff = metric
    within = (rank <= cutoff).double()
    if kind is Kind.NDCG:
        return within / torch.log2(1 + rank)
    if kind is Kind.HIT:
        return within
    if kind is Kind.MRR:
        return within / rank
    if kind is Kind.AUC:
        return torch.where(total > 1, (total - rank) / (total - 1).clamp(min=1), 1.0)
    if kind is Kind.LOGRANK:
        return torch.where(total > 1, 1 - rank.log() / total.clamp(min=2).log(), 1.0)
    return rank


def _expected(metric: Metric, above: Tensor, tied: Tensor, total: Tensor) -> Tensor:
    """The mean of the metric over ranks above + 1 ... above + tied + 1, float64.

    Sums over a range of ranks are differences of closed forms or of one table of partial sums, so
    that a row costs the same whatever its ties. Rows without ties take the plain formula, which
    loses no digits to a difference.
    """
    kind, cutoff = metric
    size = (tied + 1).double()
    last = (above + tied + 1).clamp(max=cutoff)  # the last rank that counts
    first = torch.minimum(above, last)  # ranks first + 1 ... last count
    if kind is Kind.NDCG:
        ranks = torch.arange(1, cutoff + 1, dtype=torch.float64, device=above.device)
        sums = torch.nn.functional.pad((1 / torch.log2(1 + ranks)).cumsum(0), (1, 0))
        mean = (sums[last] - sums[first]) / size
    elif kind is Kind.HIT:
        mean = (last - first).double() / size
    elif kind is Kind.MRR:
        mean = (_digamma(last + 1) - _digamma(first + 1)) / size
    elif kind is Kind.LOGRANK:
        logs = (torch.lgamma((last + 1).double()) - torch.lgamma((first + 1).double())) / size
        mean = torch.where(total > 1, 1 - logs / total.clamp(min=2).double().log(), 1.0)
    else:  # linear in the rank, so the mean stands at the mean rank
        return at_rank(metric, 1 + above.double() + tied.double() / 2, total.double())
    return torch.where(tied == 0, at_rank(metric, 1 + above.double(), total.double()), mean)


def _digamma(n: Tensor) -> Tensor:
    return torch.digamma(n.double())
