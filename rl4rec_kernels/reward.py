"""The reward that trainers call: how high the true next item ranks for a generated text."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl4rec_kernels._checks import whole_number
from rl4rec_kernels.data.splits import rows_of, select
from rl4rec_kernels.metrics import metrics_from_counts, parse_metric, parse_metrics, parse_ties
from rl4rec_kernels.ragged import RaggedIds
from rl4rec_kernels.retrieval.ids import as_ragged, check_targets
from rl4rec_kernels.retrieval.service import DEFAULT_NAME, DEFAULT_NAMESPACE, find_service

logger = logging.getLogger("rl4rec_kernels.reward")

_CUT_OFF_TYPES = ("ndcg", "hit", "mrr")
_MIXED = {"ndcg": 0.7, "hit": 0.3}
_TAG = re.compile(r"<(/?)query>", re.IGNORECASE)


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


class RecReward:
    """Reward of a text: a rank metric of the true next item among negatives or all items.

    Parameters
    ----------
    retrieval_service_name, namespace : str
        The service that encodes and ranks; looked up at the first call, in every process anew.
    dataset_name : str
        The data set, as the service knows it.
    reward_type : str
        ``"ndcg"``, ``"hit"``, ``"mrr"`` (cut off at `k`), ``"mixed"`` (0.7 NDCG@k + 0.3 Hit@k), or
        any metric of `metrics_from_counts`, such as ``"ndcg@5"``, ``"auc"``, ``"logrank"``.
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

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Notes
    -----
    Of a text with ``<query>…</query>`` the last complete pair counts, for reasoning before it may
    quote the tag; after an unclosed tag, all that follows; without a tag, the whole text. An empty
    query is ranked as it is.
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
    ) -> None:
        k = whole_number("k", k, 1)
        parse_ties(ties)
        self.weights = _metric_weights(reward_type, k)
        if use_negatives_only not in (None, True, False):
            raise ValueError(f"use_negatives_only must be None, True or False, got "
                             f"{use_negatives_only!r}")  # fmt: skip
        if normalize not in (True, False):
            raise ValueError(f"normalize must be True or False, got {normalize!r}")
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
        metrics = self._metrics(generated_texts, targets, histories, neg_items, list(self.weights))
        rewards = metrics @ np.array(list(self.weights.values()))
        if self.normalize:
            spread = rewards.std()
            rewards = (rewards - rewards.mean()) / spread if spread > 0 else np.zeros(len(rewards))
        return [float(reward) for reward in rewards]

    def compute_metrics(
        self,
        generated_texts: Sequence[Any],
        targets: Any,
        histories: Any,
        neg_items: Any = None,
        metrics: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Mean of several metrics over the texts; by default NDCG, Hit and MRR at `k`."""
        names = [f"{name}@{self.k}" for name in _CUT_OFF_TYPES] if metrics is None else metrics
        values = self._metrics(generated_texts, targets, histories, neg_items, names)
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def _metrics(
        self, texts: Any, targets: Any, histories: Any, neg_items: Any, metrics: Sequence[str]
    ) -> np.ndarray:
        """Metrics of every text, float64 [B, len(metrics)]."""
        parse_metrics(metrics)
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            raise TypeError("generated_texts must be a list of completions, got "
                            f"{type(texts).__name__}; put a single one in a list")  # fmt: skip
        queries = [extract_query(completion_text(text, i)) for i, text in enumerate(texts)]
        if not queries:
            raise ValueError("generated_texts is empty: pass at least one text")
        items = check_targets(targets, len(queries))
        seen = None if histories is None else as_ragged("histories", histories, len(queries))
        negatives = self._negatives(items, neg_items)
        service = self._service or find_service(self.retrieval_service_name, self.namespace)
        counts = service.rank(
            queries, dataset_name=self.dataset_name, targets=items,
            neg_items=negatives, histories=seen,
        )  # fmt: skip
        return metrics_from_counts(counts, metrics, self.ties).double().cpu().numpy()

    def _negatives(self, targets: np.ndarray, neg_items: Any) -> RaggedIds | None:
        """The negatives to rank among, without repeats and targets; None for all items."""
        self.last_report = NegativesReport()
        if self.use_negatives_only is False:
            return None
        given = None if neg_items is None else as_ragged("neg_items", neg_items, len(targets))
        if given is None or not given.values.size:  # a dataset without negatives has empty lists
            if self.use_negatives_only:
                raise ValueError("use_negatives_only=True needs neg_items: pass the negatives, or "
                                 "use_negatives_only=None to rank among all items")  # fmt: skip
            return None
        cleaned, self.last_report = remove_repeats(given, targets)
        empty = np.flatnonzero(np.diff(cleaned.offsets) == 0)
        if empty.size:
            raise ValueError(f"neg_items: row {empty[0]} has no negatives but its target, which "
                             "would then always rank first; give it some")  # fmt: skip
        if self.last_report != NegativesReport() and not self._warned:
            self._warned = True
            logger.warning(
                "neg_items had %d repeats and %d targets among the negatives; they were removed",
                self.last_report.duplicates, self.last_report.targets,
            )  # fmt: skip
        return cleaned

    def __getstate__(self) -> dict[str, Any]:
        if self._service is not None:
            raise TypeError("a RecReward with service= cannot be pickled; register the service "
                            "and pass retrieval_service_name= instead")  # fmt: skip
        return self.__dict__

    def __repr__(self) -> str:
        return f"RecReward(dataset_name={self.dataset_name!r}, reward_type={self.reward_type!r})"


RecRewardFrunction = RecReward
"""The user's guide's spelling of `RecReward`."""


def extract_query(text: str) -> str:
    """Return what a completion says between ``<query>`` and ``</query>``.

    The last complete pair counts; else all that follows the last opening tag; else the whole text.
    Tags may be in any case; white space around the query is removed.
    """
    # One pass over the tags, not "<query>.*?</query>": a policy stuck on repeating the opening tag
    # would make that quadratic.
    tags = list(_TAG.finditer(text))
    for opening, closing in zip(reversed(tags[:-1]), reversed(tags[1:]), strict=True):
        if closing[1] and not opening[1]:
            return text[opening.end() : closing.start()].strip()
    openings = [tag for tag in tags if not tag[1]]
    return text[openings[-1].end() if openings else 0 :].strip()


def completion_text(completion: Any, row: int) -> str:
    """Return the text of a completion: itself, or of its last message by the assistant.

    A message's content may be a string, a list of parts (``{"type": "text", "text": …}``; others
    are left out), or None (a call of a tool), which is an empty text.

    Raises
    ------
    TypeError, ValueError
        If it is neither a string nor a list of messages; the message names the row.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and all(isinstance(m, Mapping) for m in completion):
        for message in reversed(completion):
            if message.get("role") == "assistant":
                return _content_text(message.get("content"), row)
        raise ValueError(f"generated_texts[{row}] has no message by the assistant")
    raise TypeError(f"generated_texts[{row}] must be a string or a list of chat messages, got "
                    f"{type(completion).__name__}")  # fmt: skip


def _content_text(content: Any, row: int) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"generated_texts[{row}]: a part of type text must have a string as "
                            "text")  # fmt: skip
        return "".join(texts)
    raise TypeError(f"generated_texts[{row}]: a message's content must be a string or a list of "
                    f"parts, got {type(content).__name__}")  # fmt: skip


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


def _metric_weights(reward_type: str, k: int) -> dict[str, float]:
    """The metrics that a reward type is a weighted sum of."""
    if reward_type == "mixed":
        weights = {f"{name}@{k}": weight for name, weight in _MIXED.items()}
    elif reward_type in _CUT_OFF_TYPES:
        weights = {f"{reward_type}@{k}": 1.0}
    else:
        weights = {reward_type: 1.0}
    for name in weights:
        try:
            parse_metric(name)
        except ValueError as error:
            raise ValueError(f"reward_type {reward_type!r}: {error}; or ndcg, hit, mrr, mixed, "
                             "with k") from None  # fmt: skip
    return weights
