"""Names of rank metrics and tie rules, and the rank counts that metrics are computed from."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import names as checked_names
from rl4rec_kernels._utils.checks import shown

MAX_CUTOFF = 1 << 20
"""The largest k of ``metric@k``: NDCG under ties is summed up to it."""


class RankCounts(NamedTuple):
    """How each target ranks among its candidates; each field is int64, shape [B].

    With several targets per query there is one count for each, query after query.

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
    """Families of metrics; csrc/metrics.h has the same numbers."""

    NDCG = 0
    HIT = 1
    MRR = 2
    AUC = 3
    LOGRANK = 4
    RANK = 5
    RECALL = 6
    PRECISION = 7
    MAP = 8


TieRule = Literal["optimistic", "pessimistic", "average", "expected"]


class Ties(IntEnum):
    """Tie rules; csrc/metrics.h has the same numbers."""

    OPTIMISTIC = 0
    PESSIMISTIC = 1
    AVERAGE = 2
    EXPECTED = 3


class Metric(NamedTuple):
    """A metric and its cut-off, which is 2^62 for metrics without one."""

    kind: Kind
    cutoff: int


_NO_CUTOFF = 1 << 62
_KINDS = {kind.name.lower(): kind for kind in Kind}
_TIES: dict[str, Ties] = {name: Ties[name.upper()] for name in get_args(TieRule)}
_CUT_OFF = ("ndcg", "hit", "mrr", "recall", "precision", "map")
_KNOWN = "ndcg@k, hit@k, mrr@k, recall@k, precision@k, map@k, mrr, auc, logrank, rank"


def parse_metric(name: str) -> Metric:
    """Read a metric's name, without regard to case.

    Raises
    ------
    ValueError
        If the name is not one of ndcg@k, hit@k, mrr@k, recall@k, precision@k, map@k, mrr, auc,
        logrank, rank, or k is not between 1 and `MAX_CUTOFF`.
    """
    # No regular expression, no Kind[...]: torch.compile of torch 2.10 can trace neither.
    family, at, k = name.lower().partition("@") if isinstance(name, str) else ("", "", "")
    if family in _CUT_OFF and at and k.removeprefix("-").isdecimal():
        cutoff = int(k) if len(k) < 20 else 0
        if not 1 <= cutoff <= MAX_CUTOFF:
            raise ValueError(f"metric {shown(name)}: k must be between 1 and {MAX_CUTOFF}")
        return Metric(_KINDS[family], cutoff)
    if family in ("mrr", "auc", "logrank", "rank") and not at:
        return Metric(_KINDS[family], _NO_CUTOFF)
    raise ValueError(
        f"unknown metric {shown(name)}; metrics are {_KNOWN}, with k a whole number >= 1"
    )


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Read a list of metric names; a single string, a common mistake, is a TypeError."""
    if not isinstance(names, list | tuple):  # which torch.compile can trace
        names = checked_names("metrics", names)
    return [parse_metric(name) for name in names]


def parse_ties(ties: str) -> Ties:
    """Read a tie rule's name.

    Raises
    ------
    ValueError
        If it is not one of optimistic, pessimistic, average, expected.
    """
    if not isinstance(ties, str) or ties not in _TIES:
        raise ValueError(f"unknown tie rule, ties={shown(ties)}; known are {', '.join(_TIES)}")
    return _TIES[ties]


def check_counts(counts: RankCounts) -> None:
    """Raise TypeError or ValueError unless counts are three int64 tensors of one shape [B]."""
    if not isinstance(counts, tuple) or len(counts) != 3:
        raise TypeError(f"counts must be RankCounts, got {shown(counts)}")
    for name, count in zip(RankCounts._fields, counts, strict=True):
        if not isinstance(count, Tensor):
            raise TypeError(f"counts.{name} must be a tensor, got {shown(count)}")
        if count.dtype != torch.int64:
            raise TypeError(f"counts.{name} must be int64, got {count.dtype}")
        if count.shape != counts[0].shape or count.dim() != 1:
            raise ValueError(
                f"counts must be three tensors of one shape [B], but counts.{name} "
                f"is {tuple(count.shape)}"
            )


def check_count_values(counts: RankCounts) -> None:
    """Raise ValueError if counts on the CPU are impossible; the operator checks its own in C++."""
    above, tied, total = (count.numpy() for count in counts)
    below = total - 1 - above
    bad = (above | tied | below | below - tied) < 0
    for row in bad.nonzero()[0]:
        raise ValueError(
            f"counts: row {row} has above={above[row]}, tied={tied[row]} and total={total[row]}; "
            "none may be negative, and above + tied must be less than total, which counts the "
            "target too"
        )
