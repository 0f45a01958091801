"""A table whose rows are spread over the processes of a torch.distributed group."""

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds, TargetIds
from rl4rec_kernels.metrics import RankCounts, TieRule
from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import (
    NO_IDS,
    Catalog,
    Ids,
    Targets,
    as_embeddings,
    check_catalog,
    check_k,
    split_excluded,
    split_targets,
)
from rl4rec_kernels.ops._blocks import (
    best_of_slices,
    check_ids,
    count_slices,
    global_ids,
    local_ids,
    merge_best,
    score_targets,
)
from rl4rec_kernels.ops._group import Group
from rl4rec_kernels.ops._slices import check_slice, check_slices, slice_facts
from rl4rec_kernels.ops._targets import in_one_list, one_target_each
from rl4rec_kernels.ops.metrics import metric_arguments, metrics_from_counts
from rl4rec_kernels.ops.quantize import QuantizedTable, quantize_table

_SENT_BYTES = 64 << 20  # of the best items that a process receives at once

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_SAME = (
    "the operator, with its k, metrics, ties and refine,",
    "query",
    "targets",
    "exclude",
    "exclude.offsets",
    "targets.offsets",
)


class ShardedTable:
    """A table of which each process of a torch.distributed group holds a slice of the rows.

    Slices are in the order of ranks: the first process holds the rows 0, 1, ... Make one with
    `from_slice` or `open`. The methods are the catalog operators: all processes must call them with
    the same arguments, whose ids are those of the whole table, and all get the result that one
    process with the whole table would get, to the bit. Little is sent: the targets' scores and
    counts, or the best items of each slice.

    An error in one process, such as an id that is not in the table, is raised in all of them, and
    the table can be used again afterwards; Ctrl-C in one is a RuntimeError in the others. If a
    process has ended, or is slower than the others by more than the group's timeout (the default of
    ``init_process_group`` is 10 or 30 minutes), these give up with a RuntimeError, and the group
    cannot be used any more.

    Attributes
    ----------
    num_rows : int
        Rows of the whole table.
    start : int
        The first row that this process holds.
    """

    def __init__(
        self,
        table: Tensor | QuantizedTable,
        catalog: Catalog,
        group: Group,
        start: int,
        num_rows: int,
    ) -> None:
        self._table, self._catalog, self._group = table, catalog, group
        self.start, self.num_rows = start, num_rows

    @classmethod
    def from_slice(
        cls,
        table: Tensor | QuantizedTable,
        valid: Tensor | None = None,
        *,
        group: "ProcessGroup | None" = None,
    ) -> "ShardedTable":
        """Make a sharded table from the slice of each process; all processes must call it.

        Parameters
        ----------
        table : Tensor, shape [rows, D], or QuantizedTable
            This process's rows, none as well. Kept, not copied; it may be memory-mapped, and
            larger than memory.
        valid : Tensor, bool [rows], optional
            Which of them are items, see `rank_catalog`. Default: all.
        group : torch.distributed.ProcessGroup, optional
            A group with the backend Gloo or NCCL. Default: all processes.

        Raises
        ------
        TypeError, ValueError
            If the slice is not a table, or the slices of two processes do not belong together:
            they differ in dimensions or dtypes, or their CPUs round scores differently.
        RuntimeError
            If torch.distributed is not initialised.
        """
        members = Group(group)
        catalogs: list[Catalog] = []

        def look() -> dict[str, Any]:
            catalogs.append(check_slice(table, valid))
            return slice_facts(catalogs[0])

        facts = members.gather_objects(look)
        check_slices(facts)
        rows = [other["rows"] for other in facts]
        return cls(table, catalogs[0], members, sum(rows[: members.rank]), sum(rows))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        quantize: torch.dtype | None = None,
        group: "ProcessGroup | None" = None,
    ) -> "ShardedTable":
        """Open a saved `ItemIndex`; each process takes an equal part of its rows.

        The file is mapped, not read. All processes must have it.

        Parameters
        ----------
        path : path
            A file that `ItemIndex.save` wrote.
        quantize : torch.dtype, optional
            Quantize this process's part with `quantize_table` and this dtype.
        group : torch.distributed.ProcessGroup, optional
            As in `from_slice`.

        Raises
        ------
        FileNotFoundError, ValueError
            As `ItemIndex.open`, `quantize_table` and `from_slice`, in all processes.
        """
        members = Group(group)

        def take() -> tuple[Tensor | QuantizedTable, Tensor]:
            from rl4rec_kernels.index import ItemIndex  # the one import that goes up the layers

            table, valid = ItemIndex.open(path).slice(members.rank, members.size)
            return (table if quantize is None else quantize_table(table, quantize)), valid

        return cls.from_slice(*members.run(take), group=group)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self._table.shape[1]

    def rank_catalog(
        self,
        query: Tensor,
        targets: TargetIds,
        exclude: Tensor | RaggedIds | None = None,
        *,
        refine: bool = False,
    ) -> RankCounts:
        """`rl4rec_kernels.rank_catalog` over the rows of all processes.

        Parameters
        ----------
        query, targets, exclude, refine
            As for the operator, and the same in all processes.

        Raises
        ------
        TypeError, ValueError, IndexError
            As the operator, or if the processes have different arguments; in all processes.
        """
        return self._count(("rank_catalog",), query, targets, exclude, refine)[0]

    def reward_catalog(
        self,
        query: Tensor,
        targets: TargetIds,
        exclude: Tensor | RaggedIds | None = None,
        metrics: Sequence[str] = ("ndcg@10",),
        ties: TieRule = "expected",
        *,
        refine: bool = False,
    ) -> Tensor:
        """`rl4rec_kernels.reward_catalog` over the rows of all processes.

        Parameters
        ----------
        query, targets, exclude, metrics, ties, refine
            As for the operator, and the same in all processes.

        Raises
        ------
        TypeError, ValueError, IndexError
            As the operator, or if the processes have different arguments; in all processes.
        """
        call = ("reward_catalog", metrics, ties)
        counts, offsets = self._count(call, query, targets, exclude, refine)
        return metrics_from_counts(counts, metrics, ties, offsets=offsets)

    def topk_catalog(
        self,
        query: Tensor,
        k: int,
        exclude: Tensor | RaggedIds | None = None,
        *,
        refine: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """`rl4rec_kernels.topk_catalog` over the rows of all processes.

        Parameters
        ----------
        query, k, exclude, refine
            As for the operator, and the same in all processes; k from 1 to `num_rows`.

        Raises
        ------
        TypeError, ValueError, IndexError
            As the operator, or if the processes have different arguments; in all processes.
        """

        def check() -> tuple[Any, ...]:
            checked = self._check_query(query, refine)
            number = check_k(k, self.num_rows)
            excluded = split_excluded(exclude, query)
            check_ids(self.num_rows, None, excluded)
            return ("topk_catalog", number, refine), checked, None, *excluded, None

        (_, k, _), query, _, ids, offsets, _ = self._group.check_same(_SAME, check)
        show, group = self._group.rank == 0, self._group

        def find() -> tuple[Tensor, Tensor]:
            excluded = self._local_ids(ids, offsets)
            found = best_of_slices(query, self._used(refine), k, excluded, show_progress=show)
            return found[0], global_ids(found[1], self.start)

        scores, best = group.run(find)
        step = max(1, _SENT_BYTES // (16 * k * group.size))
        for first in range(0, query.shape[0], step):
            mine = scores[first : first + step], best[first : first + step]
            found = group.gather((2, *mine[0].shape), partial(_packed, *mine))
            group.run(partial(_merge, *mine, found))
        return scores, best

    def _count(
        self, call: tuple[Any, ...], query: Any, targets: Any, exclude: Any, refine: bool
    ) -> tuple[RankCounts, Tensor | None]:
        """Counts over all processes, and the offsets of several targets per query.

        `call` is the operator's name, metrics and ties.
        """

        def check() -> tuple[Any, ...]:
            numbers = metric_arguments(*call[1:]) if call[1:] else ()
            checked = self._check_query(query, refine)
            wanted = split_targets(targets, query)
            excluded = split_excluded(exclude, query)
            check_ids(self.num_rows, wanted, excluded)
            several = None
            if isinstance(wanted, Targets):
                several = wanted.offsets
                rows, wanted, excluded = one_target_each(wanted, excluded, self.num_rows)
                checked = checked[rows]
            return (call[0], numbers, refine), checked, wanted, *excluded, several

        _, query, targets, ids, offsets, several = self._group.check_same(_SAME, check)
        num_queries, show = query.shape[0], self._group.rank == 0

        def score() -> Tensor:
            """The bits of the scores of this slice's targets, and which of them are not valid."""
            here, valid = self._local(targets), self._catalog.valid
            bits = score_targets(query, self._used(refine), here).view(torch.int32).long()
            is_here, invalid = here >= 0, here.new_zeros(num_queries)
            if valid is not None:
                invalid[is_here] = (~valid[here[is_here]]).long()
            return torch.stack([bits.where(is_here, 0), invalid])

        # One process has a target's score, the others add 0: the sum has its bits, even of NaN.
        bits, invalid = self._group.sum((2, num_queries), score)

        def count() -> Tensor:
            if invalid.any():
                valid = torch.ones(self.num_rows, dtype=torch.bool, device="cpu")
                valid[targets[invalid.bool()].long()] = False
                check_ids(self.num_rows, targets, NO_IDS, valid)
            here, excluded = self._local(targets), self._local_ids(ids, offsets)
            scores = bits.int().view(torch.float32)
            catalog = self._used(refine)
            return count_slices(query, catalog, here, excluded, scores, show_progress=show)

        above, tied, competitors = self._group.sum((3, num_queries), count)
        counts = RankCounts(above, tied, competitors + 1)
        return (counts if several is None else in_one_list(counts, several)), several

    def _check_query(self, query: Any, refine: bool) -> Tensor:
        query, _ = as_embeddings(query, self._table)
        check_catalog(query, self._table, refine=refine)
        _backends.resolve_backend("auto", query)
        return query

    def _used(self, refine: bool) -> Catalog:
        return self._catalog if refine else self._catalog._replace(source=None)

    def _local(self, ids: Tensor) -> Tensor:
        """Global ids as rows of this process's slice; -1 for others."""
        return local_ids(ids, self.start, self.start + self._table.shape[0])

    def _local_ids(self, ids: Tensor | None, offsets: Tensor | None) -> Ids:
        return Ids(None if ids is None else self._local(ids), offsets)

    def __repr__(self) -> str:
        end = self.start + self._table.shape[0]
        return (
            f"ShardedTable({self.num_rows} rows x {self.dim}, {self._catalog.values.dtype}; "
            f"rows {self.start} to {end - 1} in process {self._group.rank} of {self._group.size})"
        )


def _packed(scores: Tensor, ids: Tensor) -> Tensor:
    """Scores and ids as one message, int64 [2, B, k]."""
    return torch.stack([scores.view(torch.int32).long(), ids])


def _merge(scores: Tensor, ids: Tensor, found: Tensor) -> None:
    """Replace the best of a slice by the best of all slices, `found` [processes, 2, B, k]."""
    for rank, (bits, more_ids) in enumerate(found):
        more = bits.int().view(torch.float32)
        if rank == 0:
            scores.copy_(more)
            ids.copy_(more_ids)
        else:
            merge_best(scores, ids, more, more_ids)
