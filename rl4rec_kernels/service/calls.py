"""Calls of a service with checked arguments: what a client sends and a service answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds, as_ragged, check_targets, prepend
from rl4rec_kernels.index.texts import check_texts
from rl4rec_kernels.metrics import RankCounts

Answer = RankCounts | Tensor


class Call(NamedTuple):
    """A call of `rank` or `calculate_reward`, checked except for whether its ids are items.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    texts : list of str
        B texts.
    targets : int64 [B], optional
        The target of each text.
    candidates : RaggedIds of B rows, optional
        Each row's target, then its negatives; None if all items compete.
    histories : RaggedIds of B rows, optional
        Items that do not compete when all others do.
    wants_scores : bool
        Whether the answer is scores instead of counts.
    """

    dataset: str
    texts: list[str]
    targets: np.ndarray | None
    candidates: RaggedIds | None
    histories: RaggedIds | None
    wants_scores: bool

    @property
    def kind(self) -> tuple[Any, ...]:
        """Calls of the same kind can share one call of an operator."""
        has_candidates, has_histories = self.candidates is not None, self.histories is not None
        return self.dataset, self.wants_scores, has_candidates, has_histories


def check_call(
    texts: Sequence[str],
    dataset_name: str,
    targets: Any,
    neg_items: Any,
    histories: Any,
    wants_scores: bool,
) -> Call:
    """Check the arguments of `rank` or `calculate_reward` as far as possible without the items.

    Raises
    ------
    TypeError, ValueError, IndexError
        If an argument is invalid; the message names it.
    """
    said = list(check_texts(texts))
    rows = len(said)
    if wants_scores and targets is None:
        if neg_items is not None:
            raise ValueError("neg_items needs targets: pass the target's item id of each row")
        return Call(dataset_name, said, None, None, None, True)
    ids = check_targets(targets, rows)
    candidates = seen = None
    if neg_items is not None:
        candidates = prepend(ids[:, None], as_ragged("neg_items", neg_items, rows))
    elif histories is not None:
        seen = as_ragged("histories", histories, rows)
    return Call(dataset_name, said, ids, candidates, seen, wants_scores)
