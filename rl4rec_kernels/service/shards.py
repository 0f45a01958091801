"""A table's rows spread over Ray actors, for tables that outgrow a machine.

Each shard counts among its own rows; counts add up to exactly those of the whole table, because a
target is scored once, where it is, and everybody compares with that score's bits.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.ids import RaggedIds, rows_of
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import score_candidates
from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._blocks import count_slices, local_ids, score_targets
from rl4rec_kernels.ops.sharded import _facts, _refuse
from rl4rec_kernels.service.requests import Answer, Request, merge, pad_scores, split_counts


class Shard:
    """A Ray actor with one of several equal parts of each table's rows.

    Parameters
    ----------
    paths : mapping of str to path
        Index files by data set; they must be there on the shard's machine. They are mapped, so
        that only the shard's part is ever read.
    part, parts : int
        Which part, from 0, of how many.
    num_threads : int, optional
        Threads that score; by default as many as the machine has.
    """

    def __init__(
        self,
        paths: Mapping[str, str | os.PathLike[str]],
        part: int,
        parts: int,
        num_threads: int | None = None,
    ) -> None:
        torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))  # Ray sets one
        self._catalogs: dict[str, Catalog] = {}
        self._starts: dict[str, int] = {}
        for name, path in paths.items():
            index = ItemIndex.open(path)
            table, valid = index.slice(part, parts)
            check_finite(f"datasets[{name!r}], part {part}", table)
            self._catalogs[name] = Catalog(table, None, None, valid)
            self._starts[name] = index.num_rows * part // parts

    def facts(self, dataset: str) -> dict[str, Any]:
        """What must be the same in all shards, see `ShardedTable`."""
        return _facts(self._catalogs[dataset])

    def score_targets(self, dataset: str, query: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Scores of the targets that are here, float32 [B]; -inf for others."""
        here = self._local(dataset, targets)
        return score_targets(_tensor(query), self._catalogs[dataset], here).numpy()

    def count(
        self,
        dataset: str,
        query: np.ndarray,
        targets: np.ndarray,
        target_scores: np.ndarray,
        exclude: tuple[np.ndarray, np.ndarray] | None,
    ) -> np.ndarray:
        """Count this shard's competitors above, at the target's score, and all: int64 [3, B]."""
        ids = offsets = None
        if exclude is not None:
            ids, offsets = self._local(dataset, exclude[0]), _tensor(exclude[1])
        return count_slices(
            _tensor(query),
            self._catalogs[dataset],
            self._local(dataset, targets),
            ids,
            offsets,
            _tensor(target_scores),
            show_progress=False,
        ).numpy()

    def score_candidates(
        self, dataset: str, query: np.ndarray, values: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """Scores of the candidates that are here, float32 [nnz]; -inf for others."""
        candidates = RaggedIds(self._local(dataset, values), _tensor(offsets))
        return score_candidates(_tensor(query), self._catalogs[dataset].values, candidates).numpy()

    def score_rows(self, dataset: str, query: np.ndarray) -> np.ndarray:
        """Scores of all rows that are here, float32 [B, rows]; -inf where they are no items."""
        table, _, _, valid = self._catalogs[dataset]
        assert valid is not None
        everything = torch.arange(len(table)).expand(len(query), -1)
        scores = score_candidates(_tensor(query), table, everything)
        return scores.masked_fill_(~valid, -torch.inf).numpy()

    def _local(self, dataset: str, ids: np.ndarray) -> Tensor:
        start = self._starts[dataset]
        end = start + len(self._catalogs[dataset].values)
        return local_ids(_tensor(ids), start, end)


class ShardedItems:
    """The items of a data set whose rows are with several `Shard` actors.

    Parameters
    ----------
    dataset : str
        The data set's name.
    index : ItemIndex
        The opened file. Only its mask of items is read here.
    shards : sequence of actor handles
        All shards, in the order of their parts.

    Raises
    ------
    ValueError
        If the shards' machines would round scores differently.
    """

    is_local = False

    def __init__(self, dataset: str, index: ItemIndex, shards: Sequence[Any]) -> None:
        self._dataset, self._index, self._shards = dataset, index, list(shards)
        self._ray = require("ray", "ray")
        facts = self._ray.get([shard.facts.remote(dataset) for shard in self._shards])
        for number, other in enumerate(facts):
            for name, value in other.items():
                if name not in ("rows", "CPU level") and value != facts[0][name]:
                    _refuse(name, number, facts[0], other)

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return self._index.num_rows

    def check_items(self, name: str, ids: np.ndarray) -> None:
        """Raise IndexError if an id is no item."""
        self._index.check_items(name, ids)

    def answer(self, requests: Sequence[Request], query: Tensor) -> list[Answer]:
        """Answer calls of one kind."""
        first = requests[0]
        vectors = self._ray.put(query.cpu().numpy())  # once, however many shards there are
        if first.candidates is not None:
            candidates = merge([request.candidates for request in requests])
            found = self._all("score_candidates", vectors, *map(np.asarray, candidates))
            scores = torch.from_numpy(np.maximum.reduce(found))
            if first.wants_scores:
                return pad_scores(requests, scores)
            return split_counts(requests, _count(scores.numpy(), candidates))
        if first.wants_scores:
            parts = self._all("score_rows", vectors)
            scores = torch.from_numpy(np.concatenate(parts, axis=1))
            return list(scores.split([len(request.texts) for request in requests]))
        targets = np.concatenate([request.targets for request in requests])
        seen = None
        if first.histories is not None:
            seen = tuple(map(np.asarray, merge([request.histories for request in requests])))
        # One shard has a target, the others say -inf.
        target_scores = np.maximum.reduce(self._all("score_targets", vectors, targets))
        above, tied, others = sum(self._all("count", vectors, targets, target_scores, seen))
        counts = RankCounts(*map(torch.from_numpy, (above, tied, others + 1)))
        return split_counts(requests, counts)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Every shard's answer."""
        sent = [getattr(shard, method).remote(self._dataset, *arguments) for shard in self._shards]
        # In a thread beside the actor's loop; ray.get would warn that it blocks the loop.
        return [reference.future().result() for reference in sent]


def _count(scores: np.ndarray, candidates: RaggedIds) -> RankCounts:
    """`rank_candidates` of finite scores that are there already."""
    row, starts = rows_of(candidates), candidates.offsets[:-1]
    others = candidates.values != candidates.values[starts][row]
    against = scores[starts][row]

    def count(mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.bincount(row[mask & others], minlength=len(starts)))

    everything = np.ones(len(scores), bool)
    return RankCounts(count(scores > against), count(scores == against), count(everything) + 1)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array that Ray may not let anyone write to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
