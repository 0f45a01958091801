"""The catalog slice by slice: for tables larger than memory, and for slices on several machines.

The kernels walk all items once for every few hundred queries. A mapped table that does not fit into
memory would be read from disk as often; with slices in the outer loop it is read once. Counts of
slices add up, and the best of slices merge, to the very results of the whole table: a score depends
on nothing but its query and its item.

Long work is also cut by queries, for Python to come up for air: Ctrl-C is heard between calls only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.mapped import check_mapped
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops._arguments import Catalog

SLICE_BYTES = 1 << 30
"""Tables of more bytes go slice by slice. A slice should stay in the page cache while all queries
pass it, and take so long that what comes with every slice does not matter."""

_LONG_WORK = 10**12  # multiplications from which on a progress bar is shown: about ten seconds
_CALL_WORK = 5 * 10**10  # multiplications of one call on the CPU: about half a second
_WALK = 256  # queries that one walk over the items serves: fewer do not take less reading
_MERGED = 1 << 20  # items that are merged at once, so that little memory is taken besides


def is_streamed(query: Tensor, catalog: Catalog) -> bool:
    """Whether a call goes slice by slice: on the CPU, for a table of more than `SLICE_BYTES`.

    Not while a compiler or a fake tensor asks for shapes only.
    """
    return _is_real(query, catalog) and catalog.values.shape[0] * _row_bytes(catalog) > SLICE_BYTES


def in_blocks(
    operator: Callable[..., Any],
    query: Tensor,
    catalog: Catalog,
    targets: Tensor | int,
    exclude: Tensor | None,
    offsets: Tensor | None,
    *options: Any,
) -> Any:
    """Call a catalog operator for all queries or, where that takes long, for some after the others.

    `targets` is what the operator takes third: a tensor of targets, or k. The result is a tensor or
    a tuple of them.
    """
    items = (catalog.values, catalog.valid, catalog.row_stats, catalog.source)
    blocks = _blocks(query, items[0].numel()) if _is_real(query, catalog) else []
    if len(blocks) < 2:
        return operator(query, items[0], targets, exclude, offsets, *items[1:], *options)
    given = targets if isinstance(targets, Tensor) else None
    # Before the first block, and by the numbers that queries have in the whole call.
    check_ids(items[0].shape[0], given, exclude, offsets, catalog.valid)
    found = []
    for first, end in blocks:
        third = targets if given is None else given[first:end]
        ids = _ids_of(exclude, offsets, first, end)
        found.append(operator(query[first:end], items[0], third, *ids, *items[1:], *options))
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return tuple(map(torch.cat, zip(*found, strict=True)))


def check_ids(
    num_rows: int,
    targets: Tensor | None,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None = None,
) -> None:
    """Raise the operators' own error if an id does not fit a table of `num_rows` rows.

    Raises
    ------
    ValueError, IndexError
        As `rank_catalog`.
    """
    bad = exclude is not None and bool(((exclude < -1) | (exclude >= num_rows)).any())
    if targets is not None:
        bad = bad or bool(((targets < 0) | (targets >= num_rows)).any())
        bad = bad or (valid is not None and not bool(valid[targets.long()].all()))
    if bad:
        explain_ids(num_rows, targets, exclude, offsets, valid)


def explain_ids(
    num_rows: int,
    targets: Tensor | None,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None = None,
    target_scores: Tensor | None = None,
) -> None:
    """Have the operator on the CPU find again which id does not fit, and say so.

    It looks at ids before it looks at items, so items without dimensions, which take no memory,
    will do. With `target_scores`, targets may be elsewhere (-1).
    """
    if targets is None:
        assert exclude is not None
        rows = exclude.shape[0] if offsets is None else offsets.shape[0] - 1
        targets = torch.zeros(rows, dtype=torch.int64)
    query, table = torch.empty(targets.shape[0], 0), torch.empty(num_rows, 0)
    ids = (None if t is None else t.cpu() for t in (targets, exclude, offsets, valid))
    scores = None if target_scores is None else target_scores.cpu()
    torch.ops.rl4rec.rank_catalog(query, table, *ids, None, None, scores)


def local_ids(ids: Tensor, start: int, end: int) -> Tensor:
    """Ids as rows of the slice [start, end), int64; -1 for those that are not there."""
    ids = ids.long()
    return torch.where((ids >= start) & (ids < end), ids - start, -1)


@torch.no_grad()
def score_targets(query: Tensor, catalog: Catalog, targets: Tensor) -> Tensor:
    """The scores that `count_slices` compares with, float32 [B]; -inf for targets of -1."""
    if catalog.values.shape[0] == 0:
        return query.new_full(targets.shape, -torch.inf, dtype=torch.float32)
    table, row_stats = catalog.values, catalog.row_stats
    if catalog.source is not None:
        table, row_stats = catalog.source, None
    return torch.ops.rl4rec.score_catalog_targets(query, table, targets, row_stats)


@torch.no_grad()
def count_slices(
    query: Tensor,
    catalog: Catalog,
    targets: Tensor,
    exclude: Tensor | None,
    offsets: Tensor | None,
    target_scores: Tensor,
    *,
    show_progress: bool = True,
) -> Tensor:
    """Count the competitors above each target's score, at it, and all: int64 [3, B].

    Targets of -1 are elsewhere, in another slice of the table. Ids must have been checked.
    """
    counts = query.new_zeros((3, query.shape[0]), dtype=torch.int64)
    show = show_progress and _is_long(query, catalog)
    for start, end, first, last in progress(_pieces(query, catalog), "ranking", show=show):
        part = _rows(catalog, start, end)
        ids, bounds = _ids_of(exclude, offsets, first, last)
        found = torch.ops.rl4rec.rank_catalog(
            query[first:last],
            part.values,
            local_ids(targets[first:last], start, end),
            None if ids is None else local_ids(ids, start, end),
            bounds,
            part.valid,
            part.row_stats,
            part.source,
            target_scores[first:last],
        )
        counts[:, first:last] += torch.stack(found)
        counts[2, first:last] -= 1  # each slice counts the target
    return counts


def rank_slices(
    query: Tensor,
    catalog: Catalog,
    targets: Tensor,
    exclude: Tensor | None,
    offsets: Tensor | None,
) -> RankCounts:
    """`rank_catalog` slice by slice."""
    check_ids(catalog.values.shape[0], targets, exclude, offsets, catalog.valid)
    scores = score_targets(query, catalog, targets)
    above, tied, competitors = count_slices(query, catalog, targets, exclude, offsets, scores)
    return RankCounts(above, tied, competitors + 1)


@torch.no_grad()
def best_of_slices(
    query: Tensor,
    catalog: Catalog,
    k: int,
    exclude: Tensor | None,
    offsets: Tensor | None,
    *,
    show_progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """`topk_catalog` slice by slice; of fewer than k rows as well. Ids must have been checked."""
    scores = query.new_full((query.shape[0], k), -torch.inf, dtype=torch.float32)
    ids = scores.new_full(scores.shape, -1, dtype=torch.int64)
    show = show_progress and _is_long(query, catalog)
    for start, end, first, last in progress(_pieces(query, catalog), "searching", show=show):
        part = _rows(catalog, start, end)
        excluded, bounds = _ids_of(exclude, offsets, first, last)
        found, rows = torch.ops.rl4rec.topk_catalog(
            query[first:last],
            part.values,
            min(k, end - start),
            None if excluded is None else local_ids(excluded, start, end),
            bounds,
            part.valid,
            part.row_stats,
            part.source,
        )
        merge_best(scores[first:last], ids[first:last], found, global_ids(rows, start))
    return scores, ids


def global_ids(rows: Tensor, start: int) -> Tensor:
    """Ids of rows of a slice that begins at `start`; -1 stays."""
    return torch.where(rows >= 0, rows + start, -1)


def merge_best(scores: Tensor, ids: Tensor, more_scores: Tensor, more_ids: Tensor) -> None:
    """Merge the best of later rows into the best so far, in place; both are in order.

    The sort is stable: of equal scores the earlier row, which has the lower id, stays ahead.
    """
    k = scores.shape[1]
    step = max(1, _MERGED // (k + more_scores.shape[1]))
    for first in range(0, scores.shape[0], step):
        block = slice(first, first + step)
        both = torch.cat([scores[block], more_scores[block]], 1)
        both_ids = torch.cat([ids[block], more_ids[block]], 1)
        order = both.sort(dim=1, descending=True, stable=True)
        scores[block] = order.values[:, :k]
        ids[block] = both_ids.gather(1, order.indices[:, :k])


def _is_real(query: Tensor, catalog: Catalog) -> bool:
    """Whether there are values to work on, on the CPU; not for compilers and fake tensors."""
    if torch.compiler.is_compiling() or query.device.type != "cpu":
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) for t in (query, catalog.values))


def _row_bytes(catalog: Catalog) -> int:
    tables = (catalog.values, catalog.row_stats, catalog.source)
    return sum(t.shape[1] * t.element_size() for t in tables if t is not None)


def _slices(catalog: Catalog) -> list[tuple[int, int]]:
    """First row and end of every slice; none where there are no rows."""
    num_rows = catalog.values.shape[0]
    step = max(1, SLICE_BYTES // max(1, _row_bytes(catalog)))
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _blocks(query: Tensor, values: int) -> list[tuple[int, int]]:
    """First query and end of what one call takes, which meets a table of so many values."""
    num_queries = step = query.shape[0]
    if query.device.type == "cpu":
        step = max(1, _CALL_WORK // max(1, values) // _WALK) * _WALK
    return [
        (first, min(first + step, num_queries)) for first in range(0, num_queries, max(1, step))
    ]


def _pieces(query: Tensor, catalog: Catalog) -> list[tuple[int, int, int, int]]:
    """Every slice with every block of queries: first row and end, first query and end."""
    dim = catalog.values.shape[1]
    return [
        (start, end, *block)
        for start, end in _slices(catalog)
        for block in _blocks(query, (end - start) * dim)
    ]


def _ids_of(
    ids: Tensor | None, offsets: Tensor | None, first: int, end: int
) -> tuple[Tensor | None, Tensor | None]:
    """The ids [B, X], or ragged ones and their offsets, of some queries."""
    if ids is None or offsets is None:
        return (None if ids is None else ids[first:end]), None
    if (first, end) == (0, offsets.shape[0] - 1):
        return ids, offsets
    bounds = offsets[first : end + 1]
    return ids[int(bounds[0]) : int(bounds[-1])], bounds - bounds[0]


def _rows(catalog: Catalog, start: int, end: int) -> Catalog:
    """A slice; nothing is copied."""
    for table in (catalog.values, catalog.source):
        if table is not None:
            check_mapped(table)

    def cut(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[start:end]

    return Catalog(catalog.values[start:end], *map(cut, catalog[1:]))


def _is_long(query: Tensor, catalog: Catalog) -> bool:
    return catalog.values.numel() * max(query.shape[0], _WALK) > _LONG_WORK
