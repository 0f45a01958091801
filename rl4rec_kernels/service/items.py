"""The items of a data set, which answer batches of calls.

Calls of the same kind become one call of an operator. A score depends only on its query and its
item, so each call gets the answer that it would get alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.mapped import check_mapped
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.ids import RaggedIds, check_inside, merge
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import (
    log_prob_candidates,
    rank_candidates,
    rank_catalog,
    rank_with_log_prob,
    score_candidates,
)
from rl4rec_kernels.ops.quantize import QuantizedTable, quantize_table
from rl4rec_kernels.service.calls import Answer, Call, Ranked

_MIN_COPIED, _MAX_COPIED = 4 << 20, 1 << 30  # bytes of a table
_MIN_PAIRS = 1 << 11  # for fewer, rounding the queries takes longer than is saved

_rank = torch.ops.rl4rec.rank_candidates.default
_rank_refined = torch.ops.rl4rec.rank_candidates_refined.default


class Items(ABC):
    """The items of a data set; a subclass knows where their embeddings are.

    Parameters
    ----------
    index : ItemIndex
        Which rows are items.

    Attributes
    ----------
    is_local : bool
        Whether the embeddings are in this process.
    """

    is_local = True

    def __init__(self, index: ItemIndex) -> None:
        self._index = index

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self._index.num_rows

    @property
    def raw_items(self) -> RawIds:
        """The ids of items as the data set's own file has them."""
        return self._index.raw_items

    def check_ids(self, call: Call) -> None:
        """Check that the ids of a call are items.

        Raises
        ------
        IndexError
            If one is not; the message names the argument.
        """
        try:
            if call.candidates is not None:  # each row begins with its target
                self._index.check_items("neg_items", call.candidates)
        except IndexError:
            self._check_targets(call)
            raise
        if call.candidates is None:
            self._check_targets(call)
        if call.histories is not None:
            check_inside("histories", call.histories, self.num_rows)

    def _check_targets(self, call: Call) -> None:
        if call.targets is not None:
            self._index.check_items("targets", call.targets)

    def answer(self, calls: Sequence[Call], query: Tensor) -> list[Answer]:
        """Answer calls of one kind; `query` holds the encodings of all their texts in order."""
        first = calls[0]
        if first.candidates is not None:
            candidates = merge([call.candidates for call in calls])
            if first.wants_scores:
                return _pad_scores(calls, self._score_candidates(query, candidates))
            return _split(calls, *self._rank_candidates(query, candidates, first.temperature))
        if first.wants_scores:
            return list(self._score_all(query).split([len(call.texts) for call in calls]))
        seen = None if first.histories is None else merge([call.histories for call in calls])
        targets = np.concatenate([call.targets for call in calls])
        return _split(calls, *self._rank_all(query, targets, seen, first.temperature))

    @abstractmethod
    def _score_candidates(self, query: Tensor, candidates: RaggedIds) -> Tensor:
        """Scores of candidates, float32 [nnz], on the CPU."""

    @abstractmethod
    def _rank_candidates(
        self, query: Tensor, candidates: RaggedIds, temperature: float | None
    ) -> tuple[RankCounts, Tensor | None]:
        """Counts of each row's candidates against its first, the target.

        With a temperature also the target's log-probability, float32 [B].
        """

    @abstractmethod
    def _score_all(self, query: Tensor) -> Tensor:
        """Scores of all rows of the table, float32 [B, N] on the CPU; -inf for non-items."""

    @abstractmethod
    def _rank_all(
        self,
        query: Tensor,
        targets: np.ndarray,
        seen: RaggedIds | None,
        temperature: float | None,
    ) -> tuple[RankCounts, Tensor | None]:
        """The same for all items against each target, those in `seen` left out."""


class LocalItems(Items):
    """Items whose embeddings are in this process, on the device where texts are encoded.

    A float32 table on the CPU that is larger than a cache gets an int8 copy, unless it is larger
    than 1 GiB. Many queries are ranked among their negatives by the copy, with the same results.
    """

    def __init__(self, index: ItemIndex, device: torch.device | str = "cpu") -> None:
        super().__init__(index)
        self._table = index.table.to(device)
        self._valid = index.valid.to(device)
        self._copy: QuantizedTable | None = None
        is_float32 = (self._table.device.type, self._table.dtype) == ("cpu", torch.float32)
        if is_float32 and _MIN_COPIED <= self._table.nbytes <= _MAX_COPIED:
            with suppress(ValueError):  # of huge values, which have no bound
                self._copy = quantize_table(self._table)

    def _score_candidates(self, query: Tensor, candidates: RaggedIds) -> Tensor:
        return score_candidates(query, self._table, self._to_device(candidates)).cpu()

    def _rank_candidates(
        self, query: Tensor, candidates: RaggedIds, temperature: float | None
    ) -> tuple[RankCounts, Tensor | None]:
        if temperature is not None or self._table.device.type != "cpu":
            return rank_rows(query, self._table, self._to_device(candidates), temperature)
        # Without the checks of rank_candidates, which take as long as ranking a sample: the
        # operators check dimensions and ids.
        check_mapped(self._table)
        arguments = query, self._table, *map(torch.from_numpy, candidates)
        if self._copy is None or len(candidates.values) < _MIN_PAIRS:
            return RankCounts(*_rank(*arguments)), None
        copy = self._copy.values, self._copy.row_stats
        return RankCounts(*_rank_refined(*arguments, *copy)), None

    def _score_all(self, query: Tensor) -> Tensor:
        return score_rows(query, self._table, self._valid).cpu()

    def _rank_all(
        self,
        query: Tensor,
        targets: np.ndarray,
        seen: RaggedIds | None,
        temperature: float | None,
    ) -> tuple[RankCounts, Tensor | None]:
        exclude = None if seen is None else self._to_device(seen)
        ids = torch.from_numpy(targets).to(query.device)
        if temperature is None:
            return rank_catalog(query, self._table, ids, exclude, valid=self._valid), None
        return rank_with_log_prob(query, self._table, ids, exclude, temperature, self._valid)

    def _to_device(self, ids: RaggedIds) -> RaggedIds:
        return RaggedIds(*(torch.from_numpy(part).to(self._table.device) for part in ids))


def score_rows(query: Tensor, table: Tensor, valid: Tensor) -> Tensor:
    """Scores of all rows of a table, float32 [B, rows]; -inf for rows that are not items."""
    rows = torch.arange(len(table), dtype=torch.int64, device=query.device).expand(len(query), -1)
    return score_candidates(query, table, rows).masked_fill_(~valid, -torch.inf)


def rank_rows(
    query: Tensor, table: Tensor, candidates: RaggedIds, temperature: float | None
) -> tuple[RankCounts, Tensor | None]:
    """Counts of candidates, and log-probabilities if there is a temperature."""
    counts = rank_candidates(query, table, candidates)
    if temperature is None:
        return counts, None
    return counts, log_prob_candidates(query, table, candidates, temperature)


def find_items(datasets: Mapping[str, Items], name: str) -> Items:
    """Return the items of a data set.

    Raises
    ------
    ValueError
        If there is no such data set; the message lists the existing ones.
    """
    if not isinstance(name, str) or name not in datasets:
        known = ", ".join(map(repr, datasets))
        raise ValueError(f"unknown data set, dataset_name={shown(name)}; this service has {known}")
    return datasets[name]


def answer_calls(
    datasets: Mapping[str, Items], calls: Sequence[Call], query: Tensor
) -> list[Answer]:
    """Answer calls of any kind, those of one kind together; `query` as in `Items.answer`."""
    if len(calls) == 1:
        return datasets[calls[0].dataset].answer(calls, query)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i, call in enumerate(calls):
        kinds.setdefault(call.kind, []).append(i)
    if len(kinds) == 1:
        return datasets[calls[0].dataset].answer(calls, query)
    rows = _row_slices(calls)
    answers: list[Any] = [None] * len(calls)
    for members in kinds.values():
        chosen = [calls[i] for i in members]
        part = torch.cat([query[rows[i]] for i in members])
        for i, answer in zip(
            members, datasets[chosen[0].dataset].answer(chosen, part), strict=True
        ):
            answers[i] = answer
    return answers


def _row_slices(calls: Sequence[Call]) -> list[slice]:
    """The rows of each call in a table of all calls' rows."""
    ends = accumulate((len(call.texts) for call in calls), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def _split(calls: Sequence[Call], counts: RankCounts, log_probs: Tensor | None) -> list[Answer]:
    """Give each call its counts, and its log-probabilities if there are any."""
    is_alone = len(calls) == 1 and counts.above.device.type == "cpu"
    if is_alone and log_probs is None:
        return [counts]
    rows = _row_slices(calls)
    if is_alone:
        parts = [counts]
    else:
        together = torch.stack(tuple(counts)).cpu()  # one copy from a device
        parts = [RankCounts(*together[:, mine].clone()) for mine in rows]
    if log_probs is None:
        return list(parts)
    found = log_probs.cpu()
    found = found.masked_fill(found.isnan(), -torch.inf)  # NaN is the worst, as in the counts
    return [Ranked(part, found[mine].clone()) for part, mine in zip(parts, rows, strict=True)]


def _pad_scores(calls: Sequence[Call], scores: Tensor) -> list[Answer]:
    """Give each call its scores, [B, 1 + num_negs], shorter rows padded with -inf."""
    lengths = [np.diff(call.candidates.offsets).tolist() for call in calls if call.candidates]
    return [
        torch.nn.utils.rnn.pad_sequence(list(mine.split(rows)), True, -torch.inf)
        for rows, mine in zip(lengths, scores.split(list(map(sum, lengths))), strict=True)
    ]
