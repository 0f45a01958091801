"""Evaluation of queries by the ranks of their targets, among negatives and among all items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array, Labels, Numbers, as_array
from rl4rec_kernels._utils.checks import (
    MAX_SEED,
    amount,
    choice,
    flag,
    names,
    number,
    shown,
    whole_number,
)
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.evaluation.bootstrap import bootstrap_intervals
from rl4rec_kernels.evaluation.correction import (
    DEFAULT_GAMMA,
    METHODS,
    Method,
    check_gamma,
    corrected_metrics,
)
from rl4rec_kernels.evaluation.groups import NUM_BINS, group_rows
from rl4rec_kernels.evaluation.lists import list_metrics
from rl4rec_kernels.evaluation.report import Evaluation
from rl4rec_kernels.evaluation.result import (
    CATALOG,
    CORRECTED,
    SAMPLED,
    Estimate,
    Results,
    Settings,
)
from rl4rec_kernels.ids import (
    IdLists,
    RaggedIds,
    TargetIds,
    as_ragged,
    check_inside,
    check_some_targets,
    check_valid_items,
    count_items,
    join,
    pairs_of,
    prepend,
    rows_of,
    take_rows,
    valid_rows,
)
from rl4rec_kernels.metrics import MAX_CUTOFF, RankCounts, TieRule, parse_ties
from rl4rec_kernels.ops import metrics_from_counts, rank_candidates, rank_catalog
from rl4rec_kernels.ops._arguments import as_embeddings, check_embeddings

_MAX_BOOTSTRAP = 10**6  # the means of all replicates are kept
_MAX_BINS = 10**4

FAMILIES = ("ndcg", "hit", "mrr", "recall", "precision", "map")  # of one target the first three
DEFAULT_KS = (1, 5, 10, 20, 50, 100)


def evaluate(
    query: Array,
    table: Array,
    targets: TargetIds,
    *,
    negatives: IdLists | None = None,
    exclude: IdLists | None = None,
    valid: Tensor | None = None,
    whole_catalog: bool = True,
    corrections: Sequence[Method] | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    ties: TieRule = "expected",
    gamma: float = DEFAULT_GAMMA,
    groups: Mapping[str, Labels] | None = None,
    num_bins: int = NUM_BINS,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 42,
    beyond_accuracy: bool = False,
    item_counts: Numbers | None = None,
    about: Mapping[str, object] | None = None,
) -> Evaluation:
    """Evaluate queries by the ranks of their targets.

    Each protocol ranks once: NDCG, Hit and MRR at every cut-off, ``mrr``, ``auc``, ``logrank`` and
    the mean ``rank`` are computed from the same counts, with intervals from the same bootstrap.
    With several targets per user, recall, precision and MAP are too.

    Parameters
    ----------
    query : Tensor or array, shape [B, D]
        One row per user, float32, float16 or bfloat16.
    table : Tensor or array, shape [N, D]
        Embeddings of all items.
    targets : B item ids, B lists of item ids, or RaggedIds
        The true next items, rows of the table. Several targets of a user rank in one list; see
        `metrics_from_counts`.
    negatives : B lists of item ids, a [B, m] array, or RaggedIds, optional
        Adds the protocol ``"sampled"`` and the corrections. For the corrections to be valid, the
        negatives must be drawn uniformly and without replacement from all items that may compete,
        as `sample_negatives` does without weights and with ``seen=exclude``.
    exclude : B lists of item ids, or RaggedIds, optional
        Items to leave out, for example the user's history. The target is never excluded.
    valid : Tensor, bool [N], optional
        Rows that are items (`ItemIndex.valid`). Default: all. Needed if row 0 is padding.
    whole_catalog : bool
        Whether to rank among all items. If False, `negatives` are required.
    corrections : sequence of str, optional
        Estimators of the metrics of the whole catalog from the negatives: ``"unbiased"`` and
        ``"bias-variance"``, see `corrected_metrics`. Default: both, or none with several targets
        per user, for which there are none. ``"unbiased"`` is so for the rank; the metrics of that
        rank are biased, at small k by a multiple of their value.
    ks : sequence of int
        Cut-offs.
    ties : str
        See `metrics_from_counts`.
    gamma : float
        See `bias_variance_estimator`.
    groups : mapping of str to B labels or numbers, optional
        Also report results by group. Numbers with more than `num_bins` distinct values are split
        into ranges with about the same number of users. See `history_lengths` and
        `target_popularity`.
    num_bins : int
        Number of these ranges.
    num_bootstrap : int
        Bootstrap replicates, at least 2.
    confidence : float
        Confidence level of the intervals, more than 0 and less than 1.
    seed : int
        Seed of the bootstrap.
    beyond_accuracy : bool
        Also describe the k best items of each user: item coverage, Gini index, Shannon entropy and
        the similarity of the items of a list; with `item_counts` also their average popularity and
        the share of the long tail. Definitions are those of RecBole.
    item_counts : int, shape [N], optional
        Interactions per item in the training data, such as `RecommendationDataset.item_counts`.
    about : mapping, optional
        What is evaluated, kept with the results: data set, split, encoder, index, …

    Returns
    -------
    Evaluation
        Estimates by protocol and metric, for all users and by group, with the methods ``table()``,
        ``plot()``, ``to_pandas()``, ``to_dict()``, ``save()`` and ``load()``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, an embedding is not finite, a user has no negatives, or a
        negative is repeated in its row, is the target, or may not compete; the message names it.
    IndexError
        If an id is not in the table, or is not an item; the message names it.

    Notes
    -----
    Intervals are percentiles of the bootstrap over users, or over the users of a group. They show
    how the mean would vary with other users; for corrected metrics they include the variance of
    the sampled negatives, but not the bias of the estimator.

    Examples
    --------
    >>> table = torch.eye(4)
    >>> evaluate(table[:2], table, [0, 1], ks=(1,)).overall.protocols["whole catalog"]["hit@1"]
    Estimate(mean=1.0, low=1.0, high=1.0)
    """
    query, table = as_embeddings(query, table)
    check_embeddings(query, table)
    num_users, num_rows = query.shape[0], table.shape[0]
    if not num_users:
        raise ValueError("query has no rows, so there is nothing to evaluate")
    cutoffs = _check_ks(ks)
    whole_catalog = flag("whole_catalog", whole_catalog)
    items = check_some_targets(targets, num_users)
    several = isinstance(items, RaggedIds)
    families = FAMILIES if several else FAMILIES[:3]
    metrics = tuple(f"{family}@{k}" for family in families for k in cutoffs)
    metrics += ("mrr", "auc", "logrank", "rank")
    parse_ties(ties)
    gamma = check_gamma(gamma)
    num_bootstrap = amount("num_bootstrap", num_bootstrap, 2, _MAX_BOOTSTRAP)
    seed = amount("seed", seed, 0, MAX_SEED)
    confidence = number("confidence", confidence, 0, 1, strict=True)
    given = () if corrections is None else names("corrections", corrections)
    asked = tuple(choice("corrections", method, METHODS) for method in given)
    if asked and several:
        raise ValueError(
            f"corrections={shown(asked)} need one target per user, but some have several; leave "
            "corrections out"
        )
    estimators = () if several else METHODS if corrections is None else asked
    beyond_accuracy = flag("beyond_accuracy", beyond_accuracy)
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about must be a dict, or None, got {shown(about)}")
    popularity = None if item_counts is None else _check_item_counts(item_counts, num_rows)
    members = group_rows(
        {} if groups is None else groups, num_users, amount("num_bins", num_bins, 1, _MAX_BINS)
    )
    if negatives is None and not whole_catalog:
        raise ValueError("whole_catalog is False, so negatives are required")
    may_compete = valid_rows(valid, num_rows)
    check_valid_items("targets", items, may_compete)
    excluded = None if exclude is None else as_ragged("exclude", exclude, num_users)
    sampled = None if negatives is None else as_ragged("negatives", negatives, num_users)
    if excluded is not None:
        check_inside("exclude", excluded, num_rows)
    if sampled is not None:
        _check_negatives(sampled, items, excluded, may_compete)
    check_finite("query", query)
    check_finite("table", table)

    offsets = torch.from_numpy(items.offsets) if isinstance(items, RaggedIds) else None
    num_items = torch.from_numpy(count_items(items, excluded, may_compete))
    counts: dict[str, RankCounts] = {}
    if sampled is not None:
        counts[SAMPLED] = rank_sampled(query, table, items, sampled)
    if whole_catalog:
        counts[CATALOG] = rank_catalog(query, table, items, exclude=excluded, valid=valid)
    counts = {name: RankCounts(*(c.cpu() for c in parts)) for name, parts in counts.items()}
    per_user = {
        name: metrics_from_counts(parts, metrics, ties, offsets=offsets)
        for name, parts in counts.items()
    }
    if sampled is not None:
        for method in estimators:
            per_user[CORRECTED[method]] = corrected_metrics(
                counts[SAMPLED], metrics, num_items, method, gamma=gamma, ties=ties
            )

    def results(rows: Any = slice(None)) -> Results:
        values = {name: columns[rows] for name, columns in per_user.items()}
        intervals = bootstrap_intervals(values, num_bootstrap, confidence, seed)
        protocols = {}
        for name, columns in values.items():
            numbers = (columns.double().mean(0).tolist(), *intervals[name].tolist())
            protocols[name] = dict(zip(metrics, map(Estimate, *numbers), strict=True))
        return Results(len(columns), protocols)

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
            confidence=confidence,
            seed=seed,
            items=_range(num_items),
            negatives=None if sampled is None else _range(np.diff(sampled.offsets)),
            about=dict(about or {}),
        ),
        offsets=offsets,
        beyond_accuracy=(
            list_metrics(query, table, excluded, valid, cutoffs, popularity)
            if beyond_accuracy
            else {}
        ),
    )


def rank_sampled(
    query: Tensor, table: Tensor, items: np.ndarray | RaggedIds, sampled: RaggedIds
) -> RankCounts:
    """Counts among the negatives; each of several targets is a row with the others."""
    if not isinstance(items, RaggedIds):
        return rank_candidates(query, table, prepend(items[:, None], sampled))
    rows = rows_of(items)
    others = take_rows(join(items, sampled), rows)
    query = query[torch.from_numpy(rows).to(query.device)]
    return rank_candidates(query, table, prepend(items.values[:, None], others))


def _check_item_counts(item_counts: object, num_rows: int) -> np.ndarray:
    counts = as_array("item_counts", item_counts)
    if counts.shape != (num_rows,) or counts.dtype.kind not in "iuf":
        raise ValueError(
            f"item_counts must have a number for each of the {num_rows} rows of the table, got "
            f"{counts.dtype} {counts.shape}; pass the training data's item_counts"
        )
    return counts


def _check_negatives(
    negatives: RaggedIds,
    items: np.ndarray | RaggedIds,
    excluded: RaggedIds | None,
    valid: np.ndarray,
) -> None:
    """Check that negatives are drawn without replacement from the items that may compete."""

    def refuse(bad: np.ndarray, why: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"negatives: item {negatives.values[at]} of row {rows[at]} {why}; draw them by "
                "sample_negatives(…, seen=exclude)"
            )

    check_valid_items("negatives", negatives, valid)
    empty = np.flatnonzero(np.diff(negatives.offsets) == 0)
    if empty.size:
        raise ValueError(f"negatives: row {empty[0]} has none; add some, or leave the row out")
    rows = rows_of(negatives)
    pairs = pairs_of(negatives, len(valid))
    if isinstance(items, RaggedIds):
        is_target = np.isin(pairs, pairs_of(items, len(valid)))
    else:
        is_target = negatives.values == items[rows]
    refuse(is_target, "is the target of the row")
    order = pairs.argsort(kind="stable")
    repeated = np.zeros(len(pairs), dtype=bool)
    repeated[order[1:]] = np.diff(pairs[order]) == 0
    refuse(repeated, "is repeated")
    if excluded is not None:
        gone = pairs_of(excluded, len(valid))
        refuse(np.isin(pairs, gone), "is also in exclude")


def _check_ks(ks: object) -> tuple[int, ...]:
    """Return the cut-offs in ascending order."""
    if isinstance(ks, str | bytes) or not isinstance(ks, Sequence):
        raise TypeError(f"ks must be a sequence of cut-offs such as (1, 10), got {shown(ks)}")
    cutoffs = sorted(whole_number("a cut-off of ks", k, 1, MAX_CUTOFF) for k in ks)
    if not cutoffs or len(set(cutoffs)) < len(cutoffs):
        raise ValueError(f"ks must be one or more distinct cut-offs, got {tuple(ks)}")
    return tuple(cutoffs)


def _range(values: Any) -> tuple[int, int]:
    return int(values.min()), int(values.max())
