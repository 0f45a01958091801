"""The reward that trainers call: how high the true next item ranks for a generated text."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl4rec_kernels._utils.arrays import Numbers
from rl4rec_kernels._utils.checks import (
    amount,
    flag,
    number,
    optional_flag,
    shown,
    text,
    whole_number,
)
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.labels import (
    Id,
    RawRow,
    RawRows,
    RawTargets,
    raw_item_ids,
)
from rl4rec_kernels.index.texts import check_texts
from rl4rec_kernels.metrics import RankCounts, TieRule, parse_metrics, parse_ties
from rl4rec_kernels.ops import metrics_from_counts
from rl4rec_kernels.ops._arguments import check_temperature
from rl4rec_kernels.rewards.call_ids import read_ids
from rl4rec_kernels.rewards.completions import (
    Completion,
    Completions,
    completion_text,
    extract_query,
)
from rl4rec_kernels.rewards.explanation import Explanation, explain_first
from rl4rec_kernels.rewards.formulas import (
    CUT_OFF_TYPES,
    SOFTMAX,
    RewardType,
    check_item_counts,
    normalized,
    reward_parts,
)
from rl4rec_kernels.rewards.negatives import NOTHING_REMOVED
from rl4rec_kernels.rewards.targets import (
    Request,
    Scored,
    mean_of_text,
    novelty_weights,
    offsets_of,
)
from rl4rec_kernels.service.base import AsyncRetrievalBackend, RetrievalBackend
from rl4rec_kernels.service.calls import Call, make_call
from rl4rec_kernels.service.client import DEFAULT_TIMEOUT_S, check_timeout
from rl4rec_kernels.service.local import (
    DEFAULT_NAME,
    DEFAULT_NAMESPACE,
    find_service,
    registered,
)

logger = logging.getLogger("rl4rec_kernels.rewards")


class RecReward:
    """Reward of a text: a rank metric of the true next item among negatives or all items.

    Parameters
    ----------
    retrieval_service_name, namespace : str
        The service that encodes and ranks. It is looked up in each call and each process.
    dataset_name : str
        The service's name of the data set.
    reward_type : str
        ``"ndcg"``, ``"hit"``, ``"mrr"`` (with the cut-off `k`), ``"mixed"``, ``"ndcg_softmax"``,
        ``"softmax"``, or any metric of `metrics_from_counts`, such as ``"ndcg@5"``, ``"auc"`` or
        ``"logrank"``; see the notes.
    k : int
        The cut-off.
    ties : str
        See `metrics_from_counts`.
    use_negatives_only : bool, optional
        True: rank the target among the negatives, which are required. False: rank it among all
        items and ignore negatives. Default: among the negatives if they are given.
    normalize : bool
        Scale the rewards of a call to mean 0 and standard deviation 1. Default: off, because
        trainers normalize per group themselves.
    service : RetrievalBackend, optional
        The service itself instead of its name.
    group_size : int, optional
        With `normalize`: scale each group of this many consecutive texts, not the whole call.
    temperature : float
        Of the softmax: more than 1e-30 and less than 1e30. Scores of unit vectors are between -1
        and 1.
    softmax_weight : float
        The weight w of the softmax in ``"ndcg_softmax"``.
    novelty : float
        Exponent a >= 0 of the weight (1 + n)^-a of a target with n interactions; 0 is off.
    item_counts : int, shape [num_items], optional
        Interactions per item, required for `novelty`: the training data's `item_counts`.
    timeout_s : float
        Seconds that a call of a service on Ray may take, with waiting for one that died.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.

    Notes
    -----
    If a text contains ``<query>…</query>``, the last complete pair is encoded, because reasoning
    before it may quote the tag. After a tag that is not closed, the rest of the text is encoded;
    without a tag, the whole text. An empty query is ranked like any other.

    ``ndcg``, ``hit`` and ``mrr`` are the metrics with ``@k``, and ``mixed`` is 0.7 ndcg + 0.3 hit.
    ``softmax`` is p = exp(s / temperature) / sum exp(s_i / temperature) for the target's score s
    and the scores s_i of all candidates. ``ndcg_softmax`` is (1 - w) ndcg + w p, the fused reward
    of R2ec (You et al., NeurIPS 2025), which uses w = 0.05 and NDCG@1000 over the catalog. The
    service computes log p, also among all items, so no scores leave it. ``rank`` is a metric for
    inspection: lower is better. All others are between 0 and 1; the page "Rewards" of the
    documentation helps to choose one.

    Trainers compare texts for the same user. All texts of a group then have one target, and
    `novelty` scales their rewards equally. A trainer that divides by the group's standard deviation
    cancels that; turn it off (in TRL: ``scale_rewards="none"``).
    """

    def __init__(
        self,
        retrieval_service_name: str = DEFAULT_NAME,
        namespace: str = DEFAULT_NAMESPACE,
        dataset_name: str = "beauty",
        reward_type: RewardType = "ndcg",
        k: int = 10,
        *,
        ties: TieRule = "expected",
        use_negatives_only: bool | None = None,
        normalize: bool = False,
        service: RetrievalBackend | None = None,
        group_size: int | None = None,
        temperature: float = 0.05,
        softmax_weight: float = 0.05,
        novelty: float = 0.0,
        item_counts: Numbers | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        k = whole_number("k", k, 1)
        parse_ties(ties)
        self.use_negatives_only = optional_flag("use_negatives_only", use_negatives_only)
        self.normalize = flag("normalize", normalize)
        if group_size is not None:
            if not normalize:
                raise ValueError(f"group_size={group_size} needs normalize=True")
            group_size = amount("group_size", group_size, 2)
        self.group_size = group_size
        self.temperature = check_temperature(temperature)
        self.softmax_weight = number("softmax_weight", softmax_weight, 0, 1)
        self.weights = reward_parts(reward_type, k, self.softmax_weight)
        self.novelty = number("novelty", novelty, 0, np.inf)
        if self.novelty and item_counts is None:
            raise ValueError(f"novelty={novelty} needs item_counts: pass the training data's")
        self.item_counts = None if item_counts is None else check_item_counts(item_counts)
        self.timeout_s = check_timeout(timeout_s)
        self.retrieval_service_name = text("retrieval_service_name", retrieval_service_name)
        self.namespace = text("namespace", namespace)
        self.dataset_name = text("dataset_name", dataset_name)
        self.reward_type = reward_type
        if service is not None and not hasattr(service, "rank"):
            raise TypeError(
                "service must be a retrieval service, such as a LocalRetrievalService, or None, "
                f"got {shown(service)}"
            )
        self.k = k
        self.ties = ties
        self.last_report = NOTHING_REMOVED
        self._weights = np.array(list(self.weights.values()), np.float64)
        self._metrics = [name for name in self.weights if name != SOFTMAX]
        self._service = service
        self._warned = False
        self.__name__ = f"rec_{reward_type}"  # trainers log a reward function by this name

    def __call__(
        self,
        generated_texts: Completions,
        targets: RawTargets,
        histories: RawRows | None,
        neg_items: RawRows | None = None,
    ) -> list[float]:
        """Compute the reward of each text.

        Parameters
        ----------
        generated_texts : sequence of str
            B completions: a list, an array or a Series. Each may also be a list of chat messages,
            whose last one by the assistant is used; see `completion_text`.
        targets : B item ids, or lists of item ids
            The true next items, one or several for each text: then `reward_type` is the metric of
            their one list, and the softmax and `novelty` are means over them. Texts are ids of
            the data set's own file, see `export_dataset`.
        histories : B lists of item ids
            The items the users interacted with before. They do not compete when all items do.
        neg_items : B lists of item ids, optional
            Negatives, of any number per row. Repeats and targets are removed, see `last_report`. If
            all lists are empty, all items compete, as without negatives.

        Returns
        -------
        list of float
            B rewards.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument is invalid; the message names it.
        LookupError
            If there is no such service.
        TimeoutError
            If it does not answer within `timeout_s`.
        """
        return self.score(generated_texts, targets, histories, neg_items).rewards

    def score(
        self,
        generated_texts: Completions,
        targets: RawTargets,
        histories: RawRows | None,
        neg_items: RawRows | None = None,
    ) -> Scored:
        """Compute the rewards and the counts behind them; arguments as in a call."""
        request = self._check(generated_texts, targets, histories, neg_items, self.group_size)
        return self._rewards(request, self._ask(request, self._find()))

    async def score_async(
        self,
        generated_texts: Completions,
        targets: RawTargets,
        histories: RawRows | None,
        neg_items: RawRows | None = None,
    ) -> Scored:
        """As `score`, but other coroutines run while the service works."""
        request = self._check(generated_texts, targets, histories, neg_items, self.group_size)
        service = self._service or registered(self.retrieval_service_name, self.namespace)
        if service is None:
            service = await asyncio.to_thread(self._find)  # which may connect to a cluster
        if isinstance(service, AsyncRetrievalBackend):
            answer = await service.answer_async(self._call(request))
        else:
            answer = await asyncio.to_thread(self._ask, request, service)
        return self._rewards(request, answer)

    def explain(
        self,
        text: Completion,
        target: Id | Sequence[Id],
        history: RawRow,
        neg_items: RawRow = None,
    ) -> Explanation:
        """Say how one text gets its reward: print what this returns.

        Parameters
        ----------
        text, target, history, neg_items
            One row of what a call takes.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As in a call.
        """
        histories = None if history is None else [history]
        negatives = None if neg_items is None else [neg_items]
        raw_item_ids("history", history)  # errors below would name its row
        request = self._check([text], [target], histories, negatives)
        counts, values = self._values(request, self._ask(request, self._find()))
        return self._explanation(request, counts, values)

    def compute_metrics(
        self,
        generated_texts: Completions,
        targets: RawTargets,
        histories: RawRows | None,
        neg_items: RawRows | None = None,
        metrics: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Mean of several metrics over the texts. Default: NDCG, Hit and MRR at `k`."""
        names = [f"{name}@{self.k}" for name in CUT_OFF_TYPES] if metrics is None else metrics
        parse_metrics(names)
        request = self._check(generated_texts, targets, histories, neg_items)
        queries, items, seen, negatives, *_ = request
        counts = self._find().rank(queries, self.dataset_name, items, negatives, seen)
        values = metrics_from_counts(counts, names, self.ties, offsets=offsets_of(items)).double()
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def _check(
        self, texts: Any, targets: Any, histories: Any, neg_items: Any, group: int | None = None
    ) -> Request:
        """Check the arguments of a call before anything is encoded."""
        rows = as_list(texts)
        if rows is None:
            raise TypeError(
                f"generated_texts must be a list of completions, got {type(texts).__name__}; put a "
                "single one in a list"
            )
        queries = [extract_query(completion_text(text, i)) for i, text in enumerate(rows)]
        if not queries:
            raise ValueError("generated_texts is empty: pass at least one text")
        check_texts(queries)
        if group is not None and len(queries) % group:
            raise ValueError(
                f"generated_texts must be groups of group_size={group} texts, got "
                f"{len(queries)} texts"
            )
        ids = {"targets": targets, "histories": histories, "neg_items": neg_items}
        items, seen, negatives, removed = read_ids(
            self._find, self.dataset_name, ids, len(queries), self.use_negatives_only
        )
        weights = None
        if self.item_counts is not None and self.novelty:
            weights = novelty_weights(items, self.item_counts, self.novelty)
        self.last_report = removed
        if removed is not NOTHING_REMOVED and not self._warned:
            self._warned = True
            logger.warning("%s were removed from neg_items", removed)
        return Request(queries, items, seen, negatives, removed, weights)

    def _find(self) -> RetrievalBackend:
        return self._service or find_service(
            self.retrieval_service_name, self.namespace, self.timeout_s
        )

    def _call(self, request: Request) -> Call:
        queries, targets, histories, negatives, *_ = request
        temperature = self.temperature if SOFTMAX in self.weights else None
        return make_call(queries, self.dataset_name, targets, negatives, histories, temperature)

    def _ask(self, request: Request, service: Any) -> Any:
        if isinstance(service, RetrievalBackend):
            return service.answer(self._call(request))  # its arguments have been checked
        queries, targets, histories, negatives, *_ = request
        arguments = (queries, self.dataset_name, targets, negatives, histories)
        if SOFTMAX in self.weights:
            return service.rank_with_log_prob(*arguments, self.temperature)
        return service.rank(*arguments)

    def _values(self, request: Request, answer: Any) -> tuple[RankCounts, np.ndarray]:
        """Counts, and the values of the reward's parts, [B, parts], from an answer."""
        counts, log_probs = answer if SOFTMAX in self.weights else (answer, None)
        offsets = offsets_of(request.targets)
        metrics = metrics_from_counts(counts, self._metrics, self.ties, offsets=offsets)
        values = metrics.cpu().numpy()
        if log_probs is not None:
            chances = mean_of_text(np.exp(log_probs.double().cpu().numpy()), request.targets)
            values = np.column_stack([values, chances])
        return counts, values

    def _rewards(self, request: Request, answer: Any) -> Scored:
        counts, values = self._values(request, answer)
        rewards = values @ self._weights
        if request.weights is not None:
            rewards = rewards * request.weights
        if self.normalize:
            rewards = normalized(rewards, self.group_size)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s; reward %g, the first of %d",
                self._explanation(request, counts, values).summary,
                rewards[0],
                len(rewards),
            )
        return Scored(rewards.tolist(), counts, offsets_of(request.targets))

    def _explanation(self, request: Request, counts: RankCounts, values: np.ndarray) -> Explanation:
        return explain_first(request, counts, values[0], self.weights, self.ties)

    def __getstate__(self) -> dict[str, Any]:
        if self._service is not None:
            raise TypeError(
                "a RecReward with service= cannot be pickled; register the service and pass "
                "retrieval_service_name="
            )
        return self.__dict__

    def __repr__(self) -> str:
        return f"RecReward(dataset_name={self.dataset_name!r}, reward_type={self.reward_type!r})"


RecRewardFrunction = RecReward
"""`RecReward` as the user's guide spells it."""
