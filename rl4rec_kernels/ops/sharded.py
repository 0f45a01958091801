"""A table whose rows are spread over the processes of a torch.distributed group."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts, parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import (
    Catalog,
    check_column,
    check_valid,
    split_ids,
    split_table,
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
from rl4rec_kernels.ops.metrics import metrics_from_counts
from rl4rec_kernels.ops.quantize import QuantizedTable, quantize_table

_SENT_BYTES = 64 << 20  # of the best items that a process receives at once

_SAME = (
    "the operator, with its k, metrics, ties and refine,",
    "query",
    "targets",
    "exclude",
    "exclude.offsets",
)


class ShardedTable:
    """A table of which every process of a torch.distributed group holds a slice of the rows.

    Slices stand in the order of ranks: the first process holds the rows 0, 1, ... Make one with
    `from_slice` or `open`. The methods are the catalog operators: all processes must call them with
    the same arguments, whose ids are those of the whole table, and all get the result, which is
    that of one process with the whole table, to the bit. Little is sent: the targets' scores and
    counts, or the best items of each slice.

    An error in one process, such as an id that is not in the table, is raised in all of them, and
    the table can be used on. A process that is slower than the others by more than the group's
    timeout (see ``init_process_group``) makes them give up.

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
        cls, table: Tensor | QuantizedTable, valid: Tensor | None = None, *, group: Any = None
    ) -> "ShardedTable":
        """Make a sharded table of the slice that each process has; all must call it.

        Parameters
        ----------
        table : Tensor, shape [rows, D], or QuantizedTable
            This process's rows, of any number (0 as well). Kept, not copied; it may be
            memory-mapped, and larger than memory.
        valid : Tensor, bool [rows], optional
            Which of them are items, see `rank_catalog`. Default: all.
        group : torch.distributed.ProcessGroup, optional
            By default all processes. Gloo, or NCCL.

        Raises
        ------
        TypeError, ValueError
            If the slice is no table, or the slices of two processes do not go together: dimensions,
            dtypes, or scores that differ because their CPUs do.
        RuntimeError
            If torch.distributed is not initialised.
        """
        members = Group(group)
        catalogs: list[Catalog] = []

        def look() -> dict[str, Any]:
            catalogs.append(_check_slice(table, valid))
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
        group: Any = None,
    ) -> "ShardedTable":
        """Open a saved `ItemIndex`, of whose rows each process takes an equal part.

        The file is mapped, not read. It must be there in all processes.

        Parameters
        ----------
        path : path
            A file that `ItemIndex.save` wrote.
        quantize : torch.dtype, optional
            Make a copy of this process's part by `quantize_table` with this dtype.
        group : torch.distributed.ProcessGroup, optional
            As in `from_slice`.

        Raises
        ------
        FileNotFoundError, ValueError
            As `ItemIndex.open`, `quantize_table` and `from_slice`, in all processes.
        """
        from rl4rec_kernels.index import ItemIndex  # the one import that goes up the layers

        members = Group(group)

        def take() -> tuple[Tensor | QuantizedTable, Tensor]:
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
        targets: Tensor,
        exclude: Tensor | RaggedIds | None = None,
        *,
        refine: bool = False,
    ) -> RankCounts:
        """`rl4rec_kernels.rank_catalog` over the rows of all processes.

        Parameters
        ----------
        query, targets, exclude, refine
            As there, and the same in all processes.

        Raises
        ------
        TypeError, ValueError, IndexError
            As there, or if the processes have different arguments; in all processes.
        """
        return self._count(("rank_catalog",), query, targets, exclude, refine)

    def reward_catalog(
        self,
        query: Tensor,
        targets: Tensor,
        exclude: Tensor | RaggedIds | None = None,
        metrics: Sequence[str] = ("ndcg@10",),
        ties: str = "expected",
        *,
        refine: bool = False,
    ) -> Tensor:
        """`rl4rec_kernels.reward_catalog` over the rows of all processes.

        Parameters
        ----------
        query, targets, exclude, metrics, ties, refine
            As there, and the same in all processes.

        Raises
        ------
        TypeError, ValueError, IndexError
            As there, or if the processes have different arguments; in all processes.
        """
        counts = self._count(("reward_catalog", metrics, ties), query, targets, exclude, refine)
        return metrics_from_counts(counts, metrics, ties)

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
            As there, and the same in all processes; k from 1 to `num_rows`.

        Raises
        ------
        TypeError, ValueError, IndexError
            As there, or if the processes have different arguments; in all processes.
        """

        def check() -> tuple[Any, ...]:
            self._check_query(query, refine)
            number = whole_number("k", k, 1)
            if number > self.num_rows:
                raise ValueError(
                    f"k is {number} but the table has only {self.num_rows} rows; ask for fewer"
                )
            ids, offsets = (None, None) if exclude is None else split_ids("exclude", exclude, query)
            check_ids(self.num_rows, None, ids, offsets)
            return ("topk_catalog", number, refine), query, None, ids, offsets

        call, query, _, ids, offsets = self._group.check_same(_SAME, check)
        k, ids = call[1], None if ids is None else self._local(ids)
        scores, rows = self._group.run(
            lambda: best_of_slices(
                query, self._used(refine), k, ids, offsets, show_progress=self._group.rank == 0
            )
        )
        best = global_ids(rows, self.start)
        step = max(1, _SENT_BYTES // (12 * k * self._group.size))
        for first in range(0, query.shape[0], step):
            block = slice(first, first + step)
            self._merge(scores[block], best[block])
        return scores, best

    def _count(
        self, call: tuple[Any, ...], query: Any, targets: Any, exclude: Any, refine: bool
    ) -> RankCounts:
        """Counts over all processes; `call` is the operator's name, metrics and ties."""

        def check() -> tuple[Any, ...]:
            parsed = (parse_metrics(call[1]), parse_ties(call[2])) if call[1:] else ()
            self._check_query(query, refine)
            check_column("targets", targets, query)
            ids, offsets = (None, None) if exclude is None else split_ids("exclude", exclude, query)
            check_ids(self.num_rows, targets, ids, offsets)
            return (call[0], parsed, refine), query, targets, ids, offsets

        _, query, targets, ids, offsets = self._group.check_same(_SAME, check)
        catalog, here = self._used(refine), self._local(targets)
        ids = None if ids is None else self._local(ids)
        num_queries = query.shape[0]

        def score() -> Tensor:
            """The bits of the scores of the targets that are here, and which are no items."""
            bits = score_targets(query, catalog, here).view(torch.int32).long()
            is_here, no_item = here >= 0, here.new_zeros(num_queries)
            if catalog.valid is not None:
                no_item[is_here] = (~catalog.valid[here[is_here]]).long()
            return torch.stack([bits.where(is_here, 0), no_item])

        # One process has a target's score, the others add 0: its bits come through, those of NaN
        # as well.
        bits, no_item = self._group.sum((2, num_queries), score)
        if no_item.any():
            q = int(no_item.nonzero()[0])
            raise ValueError(
                f"targets: id {targets[q]} of query {q} is no item: its row is not "
                "valid; leave it out"
            )
        target_scores = bits.int().view(torch.float32)
        above, tied, competitors = self._group.sum(
            (3, num_queries),
            lambda: count_slices(
                query,
                catalog,
                here,
                ids,
                offsets,
                target_scores,
                show_progress=self._group.rank == 0,
            ),
        )
        return RankCounts(above, tied, competitors + 1)

    def _check_query(self, query: Any, refine: bool) -> None:
        split_table(query, self._table, refine)
        _backends.resolve_backend("auto", query)

    def _used(self, refine: bool) -> Catalog:
        return self._catalog if refine else self._catalog._replace(source=None)

    def _local(self, ids: Tensor) -> Tensor:
        """Global ids as rows of this process's slice; -1 for others."""
        return local_ids(ids, self.start, self.start + self._table.shape[0])

    def _merge(self, scores: Tensor, ids: Tensor) -> None:
        """Replace some queries' best of the slice by their best of all slices."""
        # One message for both: a score is 4 bytes, an id 8.
        packed = torch.cat(
            [scores.view(torch.int32)[..., None], ids.view(torch.int32).view(*ids.shape, 2)], 2
        )
        slices = self._group.gather(packed)
        for rank, found in enumerate(slices):
            more = found[..., 0].contiguous().view(torch.float32)
            more_ids = found[..., 1:].contiguous().view(torch.int64).squeeze(2)
            if rank == 0:
                scores.copy_(more)
                ids.copy_(more_ids)
            else:
                merge_best(scores, ids, more, more_ids)

    def __repr__(self) -> str:
        end = self.start + self._table.shape[0]
        return (
            f"ShardedTable({self.num_rows} rows x {self.dim}, {self._catalog.values.dtype}; "
            f"rows {self.start} to {end - 1} in process {self._group.rank} of {self._group.size})"
        )


def _check_slice(table: Any, valid: Any) -> Catalog:
    values = table.values if isinstance(table, QuantizedTable) else table
    dim = values.shape[-1] if isinstance(values, Tensor) and values.dim() else 0
    device = values.device if isinstance(values, Tensor) else None
    refine = isinstance(table, QuantizedTable) and table.source is not None
    parts = split_table(torch.empty(0, dim, device=device), table, refine)
    check_valid(valid, parts[0])
    return Catalog(*parts, valid)


def slice_facts(catalog: Catalog) -> dict[str, Any]:
    """Describe a slice: what `check_slices` compares, its rows and the level of CPU features."""
    values, row_stats, source, _ = catalog
    return {
        "rows": values.shape[0],
        "CPU level": _backends.cpu_level(),
        "dim": values.shape[1],
        "dtype": str(values.dtype),
        "quantized": row_stats is not None,
        "source": None if source is None else str(source.dtype),
        "scores": _probe(catalog),
    }


def check_slices(facts: Sequence[dict[str, Any]]) -> None:
    """Check by the `slice_facts` of all slices that they make up one table.

    Raises
    ------
    ValueError
        If dimensions or dtypes differ, or scores, because the CPUs do.
    """
    first = facts[0]
    for rank, other in enumerate(facts):
        for name, value in other.items():
            if name in ("rows", "CPU level") or value == first[name]:
                continue
            if name == "scores":
                raise ValueError(
                    f"the CPUs of process 0 (level {first['CPU level']}) and process {rank} (level "
                    f"{other['CPU level']}) round scores differently, so they cannot be compared; "
                    f"set {_backends.LEVEL_VARIABLE} to the same level for all, for example avx2"
                )
            raise ValueError(
                f"the slices do not match: {name} is {first[name]} in process 0 but {value} in "
                f"process {rank}; make them in the same way"
            )


def _probe(catalog: Catalog) -> list[list[int]]:
    """The bits of a few scores as this machine computes them for such a table."""
    values, row_stats, source, _ = catalog
    generator, device = torch.Generator().manual_seed(0), values.device
    rows, dim = 37, 67
    query, table = (
        (torch.randint(-999, 1000, (rows, dim), generator=generator) / 7.0).to(device)
        for _ in range(2)
    )
    targets = torch.arange(rows, device=device)
    score = torch.ops.rl4rec.score_catalog_targets
    if row_stats is None:
        plain = table.to(values.dtype)
        found = [score(q, plain, targets, None) for q in (query, query.to(values.dtype))]
    else:
        copy = quantize_table(table, values.dtype)
        found = [score(query, copy.values, targets, copy.row_stats)]
        if source is not None:
            found.append(score(query, table.to(source.dtype), targets, None))
    return [scores.view(torch.int32).tolist() for scores in found]
