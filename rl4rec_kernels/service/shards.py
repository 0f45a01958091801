"""A table whose rows are spread over Ray actors, for tables larger than one machine's memory.

Each shard counts among its own rows. The counts add up to exactly those of the whole table, because
a target is scored once, by the shard that has it, and all shards compare with the same bits. The
sums of exponentials add up too, up to rounding.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.ids import RaggedIds, rows_of
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import score_candidates
from rl4rec_kernels.ops._arguments import NO_IDS, Catalog, Ids
from rl4rec_kernels.ops._blocks import count_slices, local_ids, score_targets
from rl4rec_kernels.ops._log_sums import count_and_sum, target_log_probs
from rl4rec_kernels.ops._slices import check_slices, slice_facts
from rl4rec_kernels.service.items import Items, rank_rows, score_rows
from rl4rec_kernels.service.parent import end_with_ray


class Shard:
    """A Ray actor with one of several equal parts of each table's rows.

    Parameters
    ----------
    paths : mapping of str to path
        Index files by data set, which must exist on the shard's machine. They are mapped, so only
        the shard's part is read.
    part, parts : int
        Which part, from 0, of how many.
    num_threads : int, optional
        Threads for scoring. Default: all of the machine.
    """

    def __init__(
        self,
        paths: Mapping[str, str | os.PathLike[str]],
        part: int,
        parts: int,
        num_threads: int | None = None,
    ) -> None:
        end_with_ray()
        torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))  # Ray sets one
        self._catalogs: dict[str, Catalog] = {}
        self._starts: dict[str, int] = {}
        for name, path in paths.items():
            index = ItemIndex.open(path)
            table, valid = index.slice(part, parts)
            check_finite(f"datasets[{shown(name)}], part {part}", table)
            self._catalogs[name] = Catalog(table, valid, None, None)
            self._starts[name] = index.num_rows * part // parts

    def facts(self, dataset: str) -> dict[str, Any]:
        """Describe the shard's rows, see `check_slices`."""
        return slice_facts(self._catalogs[dataset])

    def score_targets(self, dataset: str, query: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Score the targets of this shard, float32 [B]; -inf for others."""
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
        """Count this shard's competitors: above the target, tied with it, and all; int64 [3, B]."""
        return count_slices(
            _tensor(query),
            self._catalogs[dataset],
            self._local(dataset, targets),
            self._excluded(dataset, exclude),
            _tensor(target_scores),
            show_progress=False,
        ).numpy()

    def count_and_sum(
        self,
        dataset: str,
        query: np.ndarray,
        targets: np.ndarray,
        target_scores: np.ndarray,
        exclude: tuple[np.ndarray, np.ndarray] | None,
        temperature: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count as `count` does, and sum exponentials, float64 [B, 2], see `count_and_sum`."""
        counts, sums = count_and_sum(
            _tensor(query),
            self._catalogs[dataset],
            self._local(dataset, targets),
            self._excluded(dataset, exclude),
            _tensor(target_scores),
            temperature,
        )
        return counts.numpy(), sums.numpy()

    def score_candidates(
        self, dataset: str, query: np.ndarray, values: np.ndarray, offsets: np.ndarray
    ) -> np.ndarray:
        """Score the candidates of this shard, float32 [nnz]; -inf for others."""
        candidates = RaggedIds(self._local(dataset, values), _tensor(offsets))
        return score_candidates(_tensor(query), self._catalogs[dataset].values, candidates).numpy()

    def score_all(self, dataset: str, query: np.ndarray) -> np.ndarray:
        """Score all rows of this shard, float32 [B, rows]; -inf for rows that are not items."""
        table, valid, _, _ = self._catalogs[dataset]
        assert valid is not None
        return score_rows(_tensor(query), table, valid).numpy()

    def _excluded(self, dataset: str, exclude: tuple[np.ndarray, np.ndarray] | None) -> Ids:
        if exclude is None:
            return NO_IDS
        return Ids(self._local(dataset, exclude[0]), _tensor(exclude[1]))

    def _local(self, dataset: str, ids: np.ndarray) -> Tensor:
        start = self._starts[dataset]
        end = start + len(self._catalogs[dataset].values)
        return local_ids(_tensor(ids), start, end)


class ShardedItems(Items):
    """The items of a data set whose rows are spread over several `Shard` actors.

    Parameters
    ----------
    dataset : str
        Name of the data set.
    index : ItemIndex
        The opened file. Only its mask of items is read here.
    shards : sequence of actor handles
        All shards, in the order of their parts.

    Raises
    ------
    ValueError
        If the shards' machines round scores differently.
    """

    is_local = False

    def __init__(self, dataset: str, index: ItemIndex, shards: Sequence[Any]) -> None:
        super().__init__(index)
        self._dataset, self._shards = dataset, list(shards)
        self._ray = require("ray", "ray")
        check_slices(self._ray.get([shard.facts.remote(dataset) for shard in self._shards]))

    def _score_candidates(self, query: Tensor, candidates: RaggedIds) -> Tensor:
        # Only the shard that has a candidate knows its score; the others answer -inf.
        scores = self._ask("score_candidates", self._put(query), *candidates)
        return torch.from_numpy(np.maximum.reduce(scores))

    def _rank_candidates(
        self, query: Tensor, candidates: RaggedIds, temperature: float | None
    ) -> tuple[RankCounts, Tensor | None]:
        """Rank the scores themselves, as a table of one dimension whose query is 1."""
        scores = self._score_candidates(query, candidates)
        targets = candidates.offsets[:-1][rows_of(candidates)]
        is_target = candidates.values == candidates.values[targets]
        rows = np.where(is_target, targets, np.arange(len(scores)))
        ids = RaggedIds(*map(torch.from_numpy, (rows, candidates.offsets)))
        return rank_rows(scores.new_ones(len(query), 1), scores[:, None], ids, temperature)

    def _score_all(self, query: Tensor) -> Tensor:
        return torch.from_numpy(np.concatenate(self._ask("score_all", self._put(query)), axis=1))

    def _rank_all(
        self,
        query: Tensor,
        targets: np.ndarray,
        seen: RaggedIds | None,
        temperature: float | None,
    ) -> tuple[RankCounts, Tensor | None]:
        vectors = self._put(query)
        target_scores = np.maximum.reduce(self._ask("score_targets", vectors, targets))
        exclude = None if seen is None else tuple(seen)
        if temperature is None:
            return _counts(self._ask("count", vectors, targets, target_scores, exclude)), None
        found = self._ask("count_and_sum", vectors, targets, target_scores, exclude, temperature)
        parts, sums = zip(*found, strict=True)
        own = torch.from_numpy(target_scores)
        log_probs = target_log_probs(own, list(map(torch.from_numpy, sums)), temperature)
        return _counts(parts), log_probs

    def _put(self, query: Tensor) -> Any:
        """Store the query vectors in Ray, once for all shards."""
        return self._ray.put(query.cpu().numpy())

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """Return every shard's answer."""
        sent = [getattr(shard, method).remote(self._dataset, *arguments) for shard in self._shards]
        # This runs in a thread beside the actor's loop; ray.get would warn that it blocks the loop.
        return [reference.future().result() for reference in sent]


def _counts(parts: Sequence[np.ndarray]) -> RankCounts:
    """Add up the counts of all shards."""
    above, tied, others = torch.from_numpy(np.sum(parts, axis=0))
    return RankCounts(above, tied, others + 1)


def _tensor(array: np.ndarray) -> Tensor:
    """Make a tensor of an array, which Ray may have made read-only."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
