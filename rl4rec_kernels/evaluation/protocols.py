"""Ranking targets among negatives and among all items, and what follows from the counts."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.evaluation.bootstrap import bootstrap_intervals
from rl4rec_kernels.evaluation.correction import (
    DEFAULT_GAMMA,
    METHODS,
    check_gamma,
    corrected_metrics,
)
from rl4rec_kernels.evaluation.groups import NUM_BINS, group_rows
from rl4rec_kernels.evaluation.result import Estimate, Evaluation, Results, Settings
from rl4rec_kernels.ids import (
    RaggedIds,
    as_ragged,
    check_inside,
    check_targets,
    check_valid_items,
    count_items,
    pairs_of,
    prepend,
    rows_of,
    valid_rows,
)
from rl4rec_kernels.metrics import MAX_CUTOFF, RankCounts, parse_ties
from rl4rec_kernels.ops import metrics_from_counts, rank_candidates, rank_catalog
from rl4rec_kernels.ops._arguments import check_embeddings

SAMPLED = "sampled"
CATALOG = "whole catalog"
DEFAULT_KS = (1, 5, 10, 20, 50, 100)


def evaluate(
    query: Tensor,
    table: Tensor,
    targets: Any,
    *,
    negatives: Any = None,
    exclude: Any = None,
    valid: Tensor | None = None,
    whole_catalog: bool = True,
    corrections: Sequence[str] = METHODS,
    ks: Sequence[int] = DEFAULT_KS,
    ties: str = "expected",
    gamma: float = DEFAULT_GAMMA,
    groups: Mapping[str, Any] | None = None,
    num_bins: int = NUM_BINS,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Evaluation:
    """Evaluate queries by the ranks of their targets.

    Each protocol ranks once; NDCG, Hit and MRR at every cut-off, ``mrr``, ``auc``, ``logrank`` and
    the mean ``rank`` come from the same counts, with intervals from the same bootstrap.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        A user a row: float32, float16 or bfloat16.
    table : Tensor, shape [N, D]
        Embeddings of all items.
    targets : B item ids
        The true next items, rows of the table.
    negatives : B lists of item ids, a [B, m] array, or RaggedIds, optional
        Adds the protocol ``"sampled"`` and the corrections. For the latter to hold they must be
        drawn uniformly and without replacement from all items that may compete, as
        `sample_negatives` does without weights and with ``seen=exclude``.
    exclude : B lists of item ids, or RaggedIds, optional
        Items that do not compete, for example the user's history. A target is never excluded.
    valid : Tensor, bool [N], optional
        Rows that are items (`ItemIndex.valid`); by default all. Pass it where row 0 is padding.
    whole_catalog : bool
        Whether to rank among all items. Without, negatives are needed.
    corrections : sequence of str
        How to estimate metrics of the whole catalog from the negatives: ``"unbiased"`` and
        ``"bias-variance"``, see `corrected_metrics`.
    ks : sequence of int
        Cut-offs.
    ties : str
        See `metrics_from_counts`.
    gamma : float
        See `bias_variance_estimator`.
    groups : mapping of str to B labels or numbers, optional
        Results by group as well. Numbers of more than `num_bins` kinds are split into ranges with
        about equally many users. See `history_lengths` and `target_popularity`.
    num_bins : int
        Ranges of a grouping by numbers.
    num_bootstrap : int
        Replicates of the bootstrap, from 2.
    confidence : float
        Of the intervals, above 0 and below 1.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Evaluation
        Estimates by protocol and metric, for all users and by group; with ``table()``, ``plot()``,
        ``to_dict()`` and ``save()``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, an embedding is not finite, a user has no negatives, or a
        negative stands twice in its row, is the target, or may not compete; the message names it.
    IndexError
        If an id is not in the table, or no item; the message names it.

    Notes
    -----
    Intervals are percentiles of the bootstrap over users, within the group for groups. They tell
    how the mean would vary with other users; for corrected metrics they hold the variance of the
    draw of the negatives, but not the estimator's bias.

    Examples
    --------
    >>> table = torch.eye(4)
    >>> evaluate(table[:2], table, [0, 1], ks=(1,)).overall.protocols["whole catalog"]["hit@1"]
    Estimate(mean=1.0, low=1.0, high=1.0)
    """
    check_embeddings(query, table)
    num_users, num_rows = query.shape[0], table.shape[0]
    if not num_users:
        raise ValueError("query has no rows: there is nobody to evaluate")
    cutoffs = _check_ks(ks)
    metrics = tuple(f"{family}@{k}" for family in ("ndcg", "hit", "mrr") for k in cutoffs)
    metrics += ("mrr", "auc", "logrank", "rank")
    parse_ties(ties)
    gamma = check_gamma(gamma)
    num_bootstrap = whole_number("num_bootstrap", num_bootstrap, 2)
    seed = whole_number("seed", seed, 0)
    _check_confidence(confidence)
    _check_corrections(corrections)
    members = group_rows(groups or {}, num_users, whole_number("num_bins", num_bins, 1))
    if negatives is None and not whole_catalog:
        raise ValueError("whole_catalog=False needs negatives to rank among")
    items = check_targets(targets, num_users)
    may_compete = valid_rows(valid, num_rows)
    check_valid_items("targets", items, may_compete)
    excluded = None if exclude is None else as_ragged("exclude", exclude, num_users)
    sampled = None if negatives is None else as_ragged("negatives", negatives, num_users)
    if excluded is not None:
        check_inside("exclude", excluded.values, num_rows)
    if sampled is not None:
        _check_negatives(sampled, items, excluded, may_compete)
    check_finite("query", query)
    check_finite("table", table)

    num_items = torch.from_numpy(count_items(items, excluded, may_compete))
    counts: dict[str, RankCounts] = {}
    if sampled is not None:
        counts[SAMPLED] = rank_candidates(query, table, prepend(items[:, None], sampled))
    if whole_catalog:
        counts[CATALOG] = rank_catalog(
            query, table, torch.from_numpy(items), exclude=excluded, valid=valid
        )
    counts = {name: RankCounts(*(c.cpu() for c in parts)) for name, parts in counts.items()}
    per_user = {name: metrics_from_counts(parts, metrics, ties) for name, parts in counts.items()}
    if sampled is not None:
        for method in corrections:
            per_user[f"corrected ({method})"] = corrected_metrics(
                counts[SAMPLED], metrics, num_items, method, gamma=gamma, ties=ties
            )

    def results(rows: np.ndarray | None = None) -> Results:
        chosen = per_user if rows is None else {n: v[rows] for n, v in per_user.items()}
        return _estimate(chosen, metrics, num_bootstrap, confidence, seed)

    return Evaluation(
        overall=results(),
        groups={
            name: {label: results(rows) for label, rows in labels.items()}
            for name, labels in members.items()
        },
        metrics=metrics,
        per_user=per_user,
        counts=counts,
        settings=Settings(
            ks=cutoffs,
            ties=ties,
            gamma=gamma,
            num_bootstrap=num_bootstrap,
            confidence=float(confidence),
            seed=seed,
            items=(int(num_items.min()), int(num_items.max())),
            negatives=None if sampled is None else _least_and_most(np.diff(sampled.offsets)),
        ),
    )


def _estimate(
    values: dict[str, Tensor],
    metrics: tuple[str, ...],
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> Results:
    """Means of every user's metrics with their intervals."""
    ends = bootstrap_intervals(values, num_bootstrap, confidence, seed)
    protocols = {}
    for name, columns in values.items():
        low, high = ends[name].tolist()
        means = columns.double().mean(0).tolist()
        protocols[name] = dict(zip(metrics, map(Estimate, means, low, high), strict=True))
    return Results(len(next(iter(values.values()))), protocols)


def _check_negatives(
    negatives: RaggedIds, items: np.ndarray, excluded: RaggedIds | None, valid: np.ndarray
) -> None:
    """Check that negatives are a draw without replacement of what may compete."""

    def refuse(bad: np.ndarray, why: str) -> None:
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"negatives: item {negatives.values[place]} of row {rows[place]} "
                f"{why}; draw them by sample_negatives(…, seen=exclude)"
            )

    check_valid_items("negatives", negatives.values, valid)
    empty = np.flatnonzero(np.diff(negatives.offsets) == 0)
    if empty.size:
        raise ValueError(
            f"negatives: row {empty[0]} has none, so its target would always rank "
            "first; give it some, or leave the row out"
        )
    rows = rows_of(negatives)
    refuse(negatives.values == items[rows], "is the row's target")
    pairs = pairs_of(negatives, len(valid))
    order = pairs.argsort(kind="stable")
    again = np.zeros(len(pairs), dtype=bool)
    again[order[1:]] = np.diff(pairs[order]) == 0
    refuse(again, "stands there twice")
    if excluded is not None:
        gone = pairs_of(excluded, len(valid))
        refuse(np.isin(pairs, gone), "is also in exclude")


def _check_ks(ks: Any) -> tuple[int, ...]:
    """The cut-offs, the least first."""
    if isinstance(ks, str) or not isinstance(ks, Sequence):
        raise TypeError(f"ks must be a sequence of cut-offs such as (1, 10), got {ks!r}")
    if not ks:
        raise ValueError("ks is empty: pass at least one cut-off")
    cutoffs = sorted(whole_number("a cut-off of ks", k, 1, MAX_CUTOFF) for k in ks)
    if len(set(cutoffs)) < len(cutoffs):
        raise ValueError(f"ks has a cut-off twice: {tuple(ks)}")
    return tuple(cutoffs)


def _check_confidence(confidence: Any) -> None:
    if isinstance(confidence, bool) or not isinstance(confidence, Real):
        raise TypeError(f"confidence must be a number, got {confidence!r}")
    if not 0 < float(confidence) < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence}; 0.95 is usual")


def _check_corrections(corrections: Any) -> None:
    if isinstance(corrections, str):
        raise TypeError(
            f"corrections must be a sequence of names, got the string "
            f"{corrections!r}; write ({corrections!r},)"
        )
    for method in corrections:
        if method not in METHODS:
            raise ValueError(f"unknown correction {method!r}; known are {', '.join(METHODS)}")


def _least_and_most(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())
