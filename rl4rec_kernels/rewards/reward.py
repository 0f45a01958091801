"""The reward that trainers call: how high the true next item ranks for a generated text."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import number, whole_number
from rl4rec_kernels.ids import RaggedIds, as_ragged, check_targets, rows_of, select
from rl4rec_kernels.metrics import RankCounts, parse_metrics, parse_ties
from rl4rec_kernels.ops import metrics_from_counts
from rl4rec_kernels.rewards.completions import completion_text, extract_query
from rl4rec_kernels.rewards.formulas import (
    CUT_OFF_TYPES,
    SOFTMAX,
    check_groups,
    check_item_counts,
    counts_of_scores,
    leave_out,
    normalized,
    novelty_weights,
    parts_table,
    reward_parts,
    softmax_of_target,
)
from rl4rec_kernels.service.local import DEFAULT_NAME, DEFAULT_NAMESPACE, find_service

logger = logging.getLogger("rl4rec_kernels.rewards")


@dataclass(frozen=True)
class NegativesReport:
    """What the last call removed from the negatives it was given.

    Attributes
    ----------
    duplicates : int
        Items that stood in their row before.
    targets : int
        Items that were their row's target.
    """

    duplicates: int = 0
    targets: int = 0


class Scored(NamedTuple):
    """What `RecReward.score` returns.

    Attributes
    ----------
    rewards : list of float
        B rewards.
    counts : RankCounts
        How each target stands among its competitors, int64 [B] each.
    """

    rewards: list[float]
    counts: RankCounts


class _Request(NamedTuple):
    """The checked arguments of a call."""

    queries: list[str]
    targets: np.ndarray
    histories: RaggedIds | None
    negatives: RaggedIds | None
    weights: np.ndarray | float


class RecReward:
    """Reward of a text: a rank metric of the true next item among negatives or all items.

    Parameters
    ----------
    retrieval_service_name, namespace : str
        The service that encodes and ranks; looked up at each call, in every process anew.
    dataset_name : str
        The data set, as the service knows it.
    reward_type : str
        ``"ndcg"``, ``"hit"``, ``"mrr"`` (cut off at `k`), ``"mixed"``, ``"ndcg_softmax"``,
        ``"softmax"``, or any metric of `metrics_from_counts`, such as ``"ndcg@5"``, ``"auc"``,
        ``"logrank"``; see the table below.
    k : int
        The cut-off.
    ties : str
        See `metrics_from_counts`.
    use_negatives_only : bool, optional
        Rank the target among the negatives (True: they must be given) or among all items (False:
        negatives are ignored). By default among the negatives where they are given.
    normalize : bool
        Scale the rewards of a call to mean 0 and standard deviation 1. Off by default: a trainer
        that normalises in groups would be misled.
    service : object, optional
        The service itself instead of its name.
    group_size : int, optional
        With `normalize`: scale each group of so many consecutive texts, not the whole call.
    temperature : float
        Of the softmax; scores of unit vectors lie between -1 and 1.
    softmax_weight : float
        The softmax's share w in ``"ndcg_softmax"``.
    novelty : float
        Exponent a >= 0 of the weight (1 + n)^-a of a target that was taken n times; 0 is off.
    item_counts : int, shape [num_items], optional
        How often each item was taken, which `novelty` needs: the training data's `item_counts`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Notes
    -----
    Of a text with ``<query>…</query>`` the last complete pair counts, for reasoning before it may
    quote the tag; after an unclosed tag, all that follows; without a tag, the whole text. An empty
    query is ranked as it is.

    ================ ============================== ============ ==================================
    reward_type      with rank r of n candidates    range        where it is flat
    ================ ============================== ============ ==================================
    ndcg             [r <= k] / log2(1 + r)         0, or to 1   0 at every rank beyond k: at random
                                                                 among 100, for 90 % with k = 10
    hit              [r <= k]                       0 or 1       everywhere but between k and k + 1
    mrr              [r <= k] / r                   0, or to 1   as ndcg; half is lost from 1 to 2
    mixed            0.7 ndcg + 0.3 hit             0, or to 1   as ndcg; a step at k
    softmax          p = exp(s/t) / sum exp(s_i/t)  0 to 1       near 1 once the target leads by
                                                                 several t; near 0 in large catalogs
    ndcg_softmax     (1 - w) ndcg + w p             0 to 1       nowhere: p tells apart what ndcg
                                                                 does not
    logrank          1 - log(r) / log(n)            0 to 1       nowhere; most at the top
    auc              (n - r) / (n - 1)              0 to 1       nowhere, but the first places of a
                                                                 large catalog are worth 1 / n each
    ================ ============================== ============ ==================================

    ``ndcg_softmax`` is the fused reward of R2ec (You et al., NeurIPS 2025), who take w = 0.05 and
    NDCG@1000 over the catalog. Among all items the softmax needs every score: [B, N] float32 then
    leave the service. ``rank`` is a metric to look at: lower is better.

    Trainers compare texts for one user, so a group's texts have one target and `novelty` scales
    all their rewards alike. A trainer that divides by the group's standard deviation undoes that;
    switch it off (in TRL ``scale_rewards="none"``).
    """

    def __init__(
        self,
        retrieval_service_name: str = DEFAULT_NAME,
        namespace: str = DEFAULT_NAMESPACE,
        dataset_name: str = "beauty",
        reward_type: str = "ndcg",
        k: int = 10,
        *,
        ties: str = "expected",
        use_negatives_only: bool | None = None,
        normalize: bool = False,
        service: Any = None,
        group_size: int | None = None,
        temperature: float = 0.05,
        softmax_weight: float = 0.05,
        novelty: float = 0.0,
        item_counts: Any = None,
    ) -> None:
        k = whole_number("k", k, 1)
        parse_ties(ties)
        if use_negatives_only not in (None, True, False):
            raise ValueError(
                f"use_negatives_only must be None, True or False, got {use_negatives_only!r}"
            )
        if normalize not in (True, False):
            raise ValueError(f"normalize must be True or False, got {normalize!r}")
        self.group_size = check_groups(group_size, normalize)
        self.temperature = number("temperature", temperature, 0, np.inf, strict=True)
        self.softmax_weight = number("softmax_weight", softmax_weight, 0, 1)
        self.weights = reward_parts(reward_type, k, self.softmax_weight)
        self.novelty = number("novelty", novelty, 0, np.inf)
        if self.novelty and item_counts is None:
            raise ValueError(
                f"novelty={novelty} needs item_counts, how often each item was taken; "
                "pass the training data's item_counts"
            )
        self.item_counts = None if item_counts is None else check_item_counts(item_counts)
        self.retrieval_service_name = retrieval_service_name
        self.namespace = namespace
        self.dataset_name = dataset_name
        self.reward_type = reward_type
        self.k = k
        self.ties = ties
        self.use_negatives_only = None if use_negatives_only is None else bool(use_negatives_only)
        self.normalize = bool(normalize)
        self.last_report = NegativesReport()
        self._service = service
        self._warned = False
        self.__name__ = f"rec_{reward_type}"  # trainers log a reward function by this name

    def __call__(
        self,
        generated_texts: Sequence[Any],
        targets: Any,
        histories: Any,
        neg_items: Any = None,
    ) -> list[float]:
        """Compute the reward of each text.

        Parameters
        ----------
        generated_texts : sequence of str
            B completions; each may also be a list of chat messages, of which the last one by the
            assistant counts.
        targets : B item ids
            The true next items.
        histories : B lists of item ids
            What the users had before; does not compete when all items do.
        neg_items : B lists of item ids, optional
            Negatives, of any number a row. Repeats and the target are removed, see `last_report`.
            Where all lists are empty, all items compete as if there were none.

        Returns
        -------
        list of float
            B rewards.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument does not fit; the message names it.
        LookupError
            If there is no such service.
        """
        return self.score(generated_texts, targets, histories, neg_items).rewards

    def score(
        self,
        generated_texts: Sequence[Any],
        targets: Any,
        histories: Any,
        neg_items: Any = None,
    ) -> Scored:
        """Compute the rewards and the counts that they come from; arguments as in a call."""
        request = self._check(generated_texts, targets, histories, neg_items)
        method, arguments = self._question(request)
        return self._rewards(request, getattr(self._find(), method)(**arguments))

    async def score_async(
        self,
        generated_texts: Sequence[Any],
        targets: Any,
        histories: Any,
        neg_items: Any = None,
    ) -> Scored:
        """As `score`, but other coroutines run while the service works."""
        request = self._check(generated_texts, targets, histories, neg_items)
        method, arguments = self._question(request)
        service = await asyncio.to_thread(self._find)  # may connect to a cluster
        coroutine = getattr(service, f"{method}_async", None)
        if coroutine is None:
            answer = await asyncio.to_thread(getattr(service, method), **arguments)
        else:
            answer = await coroutine(**arguments)
        return self._rewards(request, answer)

    def compute_metrics(
        self,
        generated_texts: Sequence[Any],
        targets: Any,
        histories: Any,
        neg_items: Any = None,
        metrics: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Mean of several metrics over the texts; by default NDCG, Hit and MRR at `k`."""
        names = [f"{name}@{self.k}" for name in CUT_OFF_TYPES] if metrics is None else metrics
        parse_metrics(names)
        request = self._check(generated_texts, targets, histories, neg_items)
        counts = self._find().rank(**self._arguments(request), histories=request.histories)
        values = metrics_from_counts(counts, names, self.ties).double().cpu()
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def _check(self, texts: Any, targets: Any, histories: Any, neg_items: Any) -> _Request:
        """Check the arguments of a call before anything is encoded."""
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            raise TypeError(
                "generated_texts must be a list of completions, got "
                f"{type(texts).__name__}; put a single one in a list"
            )
        queries = [extract_query(completion_text(text, i)) for i, text in enumerate(texts)]
        if not queries:
            raise ValueError("generated_texts is empty: pass at least one text")
        if self.group_size is not None and len(queries) % self.group_size:
            raise ValueError(
                f"generated_texts has {len(queries)} texts, which are no whole number "
                f"of groups of group_size={self.group_size}"
            )
        items = check_targets(targets, len(queries))
        seen = None if histories is None else as_ragged("histories", histories, len(queries))
        weights: np.ndarray | float = 1.0
        if self.novelty and self.item_counts is not None:
            weights = novelty_weights(items, self.item_counts, self.novelty)
        return _Request(queries, items, seen, self._negatives(items, neg_items), weights)

    def _negatives(self, targets: np.ndarray, neg_items: Any) -> RaggedIds | None:
        """The negatives to rank among, without repeats and targets; None for all items."""
        self.last_report = NegativesReport()
        if self.use_negatives_only is False:
            return None
        given = None if neg_items is None else as_ragged("neg_items", neg_items, len(targets))
        if given is None or not given.values.size:  # a dataset without negatives has empty lists
            if self.use_negatives_only:
                raise ValueError(
                    "use_negatives_only=True needs neg_items: pass the negatives, or "
                    "use_negatives_only=None to rank among all items"
                )
            return None
        cleaned, self.last_report = remove_repeats(given, targets)
        empty = np.flatnonzero(np.diff(cleaned.offsets) == 0)
        if empty.size:
            raise ValueError(
                f"neg_items: row {empty[0]} has no negatives but its target, which "
                "would then always rank first; give it some"
            )
        if self.last_report != NegativesReport() and not self._warned:
            self._warned = True
            logger.warning(
                "neg_items had %d repeats and %d targets among the negatives; they were removed",
                self.last_report.duplicates,
                self.last_report.targets,
            )
        return cleaned

    def _find(self) -> Any:
        return self._service or find_service(self.retrieval_service_name, self.namespace)

    def _arguments(self, request: _Request) -> dict[str, Any]:
        return {
            "texts": request.queries,
            "dataset_name": self.dataset_name,
            "targets": request.targets,
            "neg_items": request.negatives,
        }

    def _question(self, request: _Request) -> tuple[str, dict[str, Any]]:
        """What to ask the service: a method and its arguments."""
        if SOFTMAX in self.weights:
            return "calculate_reward", self._arguments(request)
        return "rank", {**self._arguments(request), "histories": request.histories}

    def _rewards(self, request: _Request, answer: Any) -> Scored:
        """The rewards by what the service answered: counts or scores."""
        counts, softmax = answer, None
        if SOFTMAX in self.weights:
            counts, softmax = self._read_scores(request, answer.cpu())
        table = parts_table(list(self.weights), counts, softmax, self.ties)
        rewards = table @ np.array(list(self.weights.values())) * request.weights
        if self.normalize:
            rewards = normalized(rewards, self.group_size)
        return Scored([float(reward) for reward in rewards], counts)

    def _read_scores(self, request: _Request, scores: Tensor) -> tuple[RankCounts, Tensor]:
        """Counts and the target's softmax from scores [B, 1 + num_negs] or [B, N]."""
        targets = torch.from_numpy(request.targets)
        if request.negatives is not None:
            columns = torch.zeros_like(targets)
        else:
            columns = targets
            if request.histories is not None:
                scores = leave_out(scores, targets, request.histories)
        softmax = softmax_of_target(scores, columns, self.temperature)
        return counts_of_scores(scores, columns), softmax

    def __getstate__(self) -> dict[str, Any]:
        if self._service is not None:
            raise TypeError(
                "a RecReward with service= cannot be pickled; register the service "
                "and pass retrieval_service_name= instead"
            )
        return self.__dict__

    def __repr__(self) -> str:
        return f"RecReward(dataset_name={self.dataset_name!r}, reward_type={self.reward_type!r})"


RecRewardFrunction = RecReward
"""The user's guide's spelling of `RecReward`."""


def remove_repeats(negatives: RaggedIds, targets: np.ndarray) -> tuple[RaggedIds, NegativesReport]:
    """Keep the first of equal negatives of a row, and none that is the row's target."""
    values = negatives.values
    row = rows_of(negatives)
    order = np.lexsort((values, row))  # stable: of equal negatives the first comes first
    again = (np.diff(values[order], prepend=-1) == 0) & (np.diff(row[order], prepend=-1) == 0)
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order] = again
    is_target = values == targets[row]
    kept = ~(repeated | is_target)
    report = NegativesReport(int((repeated & ~is_target).sum()), int(is_target.sum()))
    return select(negatives, kept), report
