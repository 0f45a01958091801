"""Calls of a service with checked arguments: what a client sends and a service answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rl4rec_kernels.ids import (
    RaggedIds,
    as_ragged,
    check_some_targets,
    check_targets,
    join,
    prepend,
    rows_of,
    take_rows,
    without,
)
from rl4rec_kernels.index.texts import check_texts
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops._arguments import check_temperature


class Ranked(NamedTuple):
    """What `rank_with_log_prob` returns.

    Attributes
    ----------
    counts : RankCounts
        As `rank` returns them, int64 [B] each.
    log_probs : Tensor
        The log-probability of each target, float32 [B].
    """

    counts: RankCounts
    log_probs: Tensor


Answer = RankCounts | Ranked | Tensor


class Call(NamedTuple):
    """A call of a method of `RetrievalBackend`, checked except for whether its ids are items.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    texts : list of str
        B texts; of a call with several targets per text each is there once for each of them.
    targets : int64 [B], optional
        The target of each text.
    candidates : RaggedIds of B rows, optional
        Each row's target, then its negatives; None if all items compete.
    histories : RaggedIds of B rows, optional
        Items that do not compete when all others do.
    wants_scores : bool
        Whether the answer is scores instead of counts.
    temperature : float, optional
        If given, the answer is counts and log-probabilities at this temperature.
    """

    dataset: str
    texts: list[str]
    targets: np.ndarray | None
    candidates: RaggedIds | None
    histories: RaggedIds | None
    wants_scores: bool
    temperature: float | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Calls of the same kind can share one call of an operator."""
        has_candidates, has_histories = self.candidates is not None, self.histories is not None
        wanted = self.wants_scores, self.temperature
        return self.dataset, wanted, has_candidates, has_histories


def check_call(
    texts: Sequence[str],
    dataset_name: str,
    targets: object,
    neg_items: object,
    histories: object,
    wants_scores: bool,
    wants_log_probs: bool = False,
    temperature: object = None,
) -> Call:
    """Check the arguments of a method as far as possible without the items.

    Raises
    ------
    TypeError, ValueError, IndexError
        If an argument is invalid; the message names it.
    """
    said = list(check_texts(texts))
    rows = len(said)
    checked = check_temperature(temperature) if wants_log_probs else None
    if wants_scores and targets is None:
        if neg_items is not None:
            raise ValueError("neg_items needs targets: pass the target's item id of each row")
        return Call(dataset_name, said, None, None, None, True)
    ids = check_targets(targets, rows) if wants_scores else check_some_targets(targets, rows)
    negatives = None if neg_items is None else as_ragged("neg_items", neg_items, rows)
    seen = None
    if negatives is None and histories is not None:
        seen = as_ragged("histories", histories, rows)
    return make_call(said, dataset_name, ids, negatives, seen, checked)._replace(
        wants_scores=wants_scores
    )


def make_call(
    texts: list[str],
    dataset_name: str,
    targets: np.ndarray | RaggedIds,
    negatives: RaggedIds | None,
    histories: RaggedIds | None,
    temperature: float | None,
) -> Call:
    """Make a call that ranks, of arguments that are as `check_call` makes them."""
    seen = histories if negatives is None else None
    ids = targets.values if isinstance(targets, RaggedIds) else targets
    if isinstance(targets, RaggedIds):
        # One row for each target, with the others of its text among its competitors.
        rows = rows_of(targets)
        texts = [texts[row] for row in rows]
        if negatives is not None:
            negatives = take_rows(join(targets, without(negatives, targets)), rows)
        elif seen is not None:
            seen = take_rows(without(seen, targets), rows)
    candidates = None if negatives is None else prepend(ids[:, None], negatives)
    return Call(dataset_name, texts, ids, candidates, seen, False, temperature)
