"""Calls of a service: checked one by one, answered together.

A call is checked before it meets others, so that what is wrong with it is its caller's error alone.
Calls of one kind then become one call of an operator; a score depends on nothing but its query and
its item, so each gets the answer that it would get alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.ids import (
    RaggedIds,
    as_ragged,
    check_inside,
    check_targets,
    merge,
    prepend,
)
from rl4rec_kernels.index.encoder import check_texts
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import rank_candidates, rank_catalog, score_candidates

Answer = RankCounts | Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call.

    Attributes
    ----------
    dataset : str
        The data set's name.
    texts : sequence of str
        B texts.
    targets : int64 [B], optional
        What each text is about.
    candidates : RaggedIds of B rows, optional
        Each row's target, then its negatives; None where all items compete.
    histories : RaggedIds of B rows, optional
        What does not compete when all items do.
    wants_scores : bool
        Whether scores are asked for, or counts.
    """

    dataset: str
    texts: Sequence[str]
    targets: np.ndarray | None
    candidates: RaggedIds | None
    histories: RaggedIds | None
    wants_scores: bool

    @property
    def kind(self) -> tuple[Any, ...]:
        """Calls that are equal in this go through an operator together."""
        sampled, seen = self.candidates is not None, self.histories is not None
        return self.dataset, self.wants_scores, sampled, seen


class Items(Protocol):
    """The items of a data set, wherever their embeddings are.

    Attributes
    ----------
    is_local : bool
        Whether their embeddings are in this process.
    """

    is_local: bool

    @property
    def num_rows(self) -> int:
        """Rows of the table."""

    def check_items(self, name: str, ids: np.ndarray) -> None:
        """Raise IndexError if an id is no item."""

    def answer(self, requests: Sequence[Request], query: Tensor) -> list[Answer]:
        """Answer calls of one kind; `query` holds the encodings of all their texts in order."""


class Arguments(NamedTuple):
    """What a call asks, checked but for whether its ids are items; what clients send.

    Attributes
    ----------
    texts : list of str
        B texts.
    targets : int64 [B], optional
        What each text is about.
    negatives, histories : RaggedIds of B rows, optional
        At most one of them: histories count where all items compete.
    wants_scores : bool
        Whether scores are asked for, or counts.
    """

    texts: list[str]
    targets: np.ndarray | None
    negatives: RaggedIds | None
    histories: RaggedIds | None
    wants_scores: bool


def check_arguments(
    texts: Sequence[str], targets: Any, neg_items: Any, histories: Any, wants_scores: bool
) -> Arguments:
    """Check the arguments of `calculate_reward` or `rank`, as far as it goes without the items.

    Raises
    ------
    TypeError, ValueError, IndexError
        If one does not fit; the message names it.
    """
    check_texts(texts)
    rows = len(texts)
    if wants_scores and targets is None:
        if neg_items is not None:
            raise ValueError("neg_items needs targets: pass the item id that each row is about")
        return Arguments(list(texts), None, None, None, True)
    ids = check_targets(targets, rows)
    negatives = seen = None
    if neg_items is not None:
        negatives = as_ragged("neg_items", neg_items, rows)
    elif histories is not None:
        seen = as_ragged("histories", histories, rows)
    return Arguments(list(texts), ids, negatives, seen, wants_scores)


def make_request(items: Items, dataset: str, arguments: Arguments) -> Request:
    """Make a call of checked arguments.

    Raises
    ------
    IndexError
        If an id is no item; the message names its argument.
    """
    texts, targets, negatives, seen, wants_scores = arguments
    candidates = None
    if targets is not None:
        items.check_items("targets", targets)
        if negatives is not None:
            items.check_items("neg_items", negatives.values)
            candidates = prepend(targets[:, None], negatives)
    if seen is not None:
        check_inside("histories", seen.values, items.num_rows)
    return Request(dataset, texts, targets, candidates, seen, wants_scores)


class LocalItems:
    """Items whose embeddings are in this process, on the device where the texts are encoded."""

    is_local = True

    def __init__(self, index: ItemIndex, device: torch.device | str = "cpu") -> None:
        self._index = index
        self._table = index.table.to(device)
        self._valid = index.valid.to(device)

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self._index.num_rows

    def check_items(self, name: str, ids: np.ndarray) -> None:
        """Raise IndexError if an id is no item."""
        self._index.check_items(name, ids)

    def answer(self, requests: Sequence[Request], query: Tensor) -> list[Answer]:
        """Answer calls of one kind."""
        first = requests[0]
        if first.candidates is not None:
            candidates = self._ids(merge([request.candidates for request in requests]))
            if first.wants_scores:
                scores = score_candidates(query, self._table, candidates).cpu()
                return pad_scores(requests, scores)
            return split_counts(requests, rank_candidates(query, self._table, candidates))
        if first.wants_scores:
            everything = torch.arange(self.num_rows, device=query.device)
            scores = score_candidates(query, self._table, everything.expand(len(query), -1))
            scores.masked_fill_(~self._valid, -torch.inf)
            return list(scores.cpu().split([len(request.texts) for request in requests]))
        seen = None
        if first.histories is not None:
            seen = self._ids(merge([request.histories for request in requests]))
        targets = torch.from_numpy(np.concatenate([request.targets for request in requests]))
        counts = rank_catalog(query, self._table, targets.to(query.device), seen, valid=self._valid)
        return split_counts(requests, counts)

    def _ids(self, ids: RaggedIds) -> RaggedIds:
        """The ids where the table is."""
        device = self._table.device
        return RaggedIds(*(torch.from_numpy(part).to(device) for part in ids))


def answer_together(
    items: dict[str, Items], requests: Sequence[Request], query: Tensor
) -> list[Answer]:
    """Answer calls of any kind, those of one kind together; `query` as in `Items.answer`."""
    places = row_spans(requests)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i, request in enumerate(requests):
        kinds.setdefault(request.kind, []).append(i)
    answers: list[Any] = [None] * len(requests)
    for members in kinds.values():
        chosen = [requests[i] for i in members]
        rows = query if len(kinds) == 1 else torch.cat([query[places[i]] for i in members])
        for i, found in zip(members, items[chosen[0].dataset].answer(chosen, rows), strict=True):
            answers[i] = found
    return answers


def row_spans(requests: Sequence[Request]) -> list[slice]:
    """Where the rows of each call stand in a table of those of all."""
    ends = accumulate((len(request.texts) for request in requests), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def split_counts(requests: Sequence[Request], counts: RankCounts) -> list[Answer]:
    """Give each call its rows of the counts."""
    if len(requests) == 1 and counts.above.device.type == "cpu":
        return [counts]
    together = torch.stack(tuple(counts)).cpu()  # one copy from a device
    return [RankCounts(*together[:, rows].clone()) for rows in row_spans(requests)]


def pad_scores(requests: Sequence[Request], scores: Tensor) -> list[Answer]:
    """Give each call its scores, [B, 1 + num_negs], shorter rows filled up with -inf."""
    answers: list[Answer] = []
    start = 0
    for request in requests:
        assert request.candidates is not None
        lengths = np.diff(request.candidates.offsets).tolist()
        rows = scores[start : start + sum(lengths)].split(lengths)
        padded = torch.nn.utils.rnn.pad_sequence(list(rows), True, -torch.inf)
        answers.append(padded)
        start += sum(lengths)
    return answers
