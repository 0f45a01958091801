"""Catalogs in slices: for tables larger than memory, and for slices on several machines.

The kernels walk all items once for every few hundred queries. A mapped table that does not fit into
memory would be read from disk as often; with slices in the outer loop it is read once. Counts of
slices add up, and the best of slices merge, to exactly the results of the whole table, because a
score depends only on its query and its item.

Long work is also cut into blocks of queries, because Ctrl-C takes effect when a call returns.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from rl4rec_kernels._utils.mapped import check_mapped
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops._arguments import Catalog, Ids, Targets

SLICE_BYTES = 1 << 30
"""Larger tables are processed in slices. A slice should stay in the page cache while all queries
are compared with it, and take so long that the fixed costs of a slice do not matter."""

_LONG_WORK = 10**12  # multiplications from which on a progress bar is shown: about ten seconds
_CALL_WORK = 5 * 10**10  # multiplications of one call on the CPU: about half a second
_WALK = 256  # queries that share one walk over the items: fewer do not read less
_REAL = (Tensor, torch.nn.Parameter)  # types of tensors that have values
_MERGED = 1 << 20  # items that are merged at once, to take little memory


def is_streamed(query: Tensor, catalog: Catalog) -> bool:
    """Whether a call works slice by slice: on the CPU, for a table of more than `SLICE_BYTES`.

    Not while a compiler or a fake tensor asks for shapes only.
    """
    return _is_real(query, catalog) and _bytes(catalog) > SLICE_BYTES


def in_blocks(
    operator: Callable[..., Any],
    query: Tensor,
    catalog: Catalog,
    targets: Tensor | Targets | int,
    exclude: Ids,
    *options: Any,
) -> Any:
    """Call a catalog operator for all queries at once or, where that takes long, in blocks.

    `targets` is the operator's third argument: a tensor of targets, or k; several targets per query
    are two arguments. The result is a tensor or a tuple of them.
    """
    values, *rest = catalog
    is_short = not _is_real(query, catalog) or query.shape[0] * values.numel() <= _CALL_WORK
    blocks = [] if is_short else _blocks(query, values.numel())
    if len(blocks) < 2:
        own: Any = targets if isinstance(targets, Targets) else (targets,)
        return operator(query, values, *own, *exclude, *rest, *options)
    given = None if isinstance(targets, int) else targets
    # Before the first block, so that errors name a query by its number in the whole call.
    check_ids(values.shape[0], given, exclude, catalog.valid)
    found = []
    for first, end in blocks:
        third: Any = (targets,)
        if isinstance(targets, Targets):
            third = _of_queries(Ids(*targets), first, end)
        elif isinstance(targets, Tensor):
            third = (targets[first:end],)
        ids = _of_queries(exclude, first, end)
        found.append(operator(query[first:end], values, *third, *ids, *rest, *options))
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return tuple(map(torch.cat, zip(*found, strict=True)))


def check_ids(
    num_rows: int, targets: Tensor | Targets | None, exclude: Ids, valid: Tensor | None = None
) -> None:
    """Raise the operators' own error if an id is not in a table of `num_rows` rows.

    Raises
    ------
    ValueError, IndexError
        As `rank_catalog`.
    """
    ids = exclude.values
    bad = ids is not None and bool(((ids < -1) | (ids >= num_rows)).any())
    bad = bad or not _has_offsets(exclude)
    if isinstance(targets, Targets):
        bad = bad or not _has_offsets(targets) or bool(have_repeats(targets, num_rows))
    own = targets.values if isinstance(targets, Targets) else targets
    if own is not None:
        bad = bad or bool(((own < 0) | (own >= num_rows)).any())
        bad = bad or (valid is not None and not bool(valid[own.long()].all()))
    if bad:
        explain_ids(num_rows, targets, exclude, valid)


def _has_offsets(ids: Ids | Targets) -> bool:
    """Whether offsets, if there are any, delimit rows."""
    values, offsets = ids
    if values is None or offsets is None:
        return True
    ends = (int(offsets[0]), int(offsets[-1]))
    return ends == (0, values.shape[0]) and not bool((offsets.diff() < 0).any())


def row_of_each(ids: Targets) -> Tensor:
    """The row of each of some ragged ids, int64 [nnz]; any row if offsets are wrong."""
    values, offsets = ids
    slots = torch.arange(values.shape[0], dtype=torch.int64, device=values.device)
    rows = torch.searchsorted(offsets.contiguous(), slots, right=True) - 1
    return rows.clamp(0, max(0, offsets.shape[0] - 2))


def have_repeats(ids: Targets, num_rows: int) -> Tensor:
    """Whether a row of ragged ids has one of them twice, bool []."""
    keys = (row_of_each(ids) * num_rows + ids.values.long()).sort().values
    return (keys[1:] == keys[:-1]).any()


def explain_ids(
    num_rows: int,
    targets: Tensor | Targets | None,
    exclude: Ids,
    valid: Tensor | None = None,
    target_scores: Tensor | None = None,
) -> None:
    """Raise the CPU operator's error for bad ids, wherever they are.

    The operator checks ids before it reads embeddings, so embeddings without dimensions, which take
    no memory, are enough. With `target_scores`, targets may be elsewhere (-1).
    """
    ops, (ids, offsets) = torch.ops.rl4rec, (_on_cpu(part) for part in exclude)
    table = torch.empty(num_rows, 0, dtype=torch.float32, device="cpu")
    if targets is None:
        assert ids is not None
        rows = ids.shape[0] if offsets is None else offsets.shape[0] - 1
        ops.topk_catalog(table.new_empty(rows, 0), table, 1, ids, offsets, None, None, None)
    elif isinstance(targets, Targets):
        query = table.new_empty(targets.offsets.shape[0] - 1, 0)
        own = (_on_cpu(part) for part in targets)
        ops.rank_catalog_targets(query, table, *own, ids, offsets, _on_cpu(valid), None, None)
    else:
        query, target_scores = table.new_empty(targets.shape[0], 0), _on_cpu(target_scores)
        parts = (targets.cpu(), ids, offsets, _on_cpu(valid))
        ops.rank_catalog(query, table, *parts, None, None, target_scores)


def _on_cpu(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.cpu()


def local_ids(ids: Tensor, start: int, end: int) -> Tensor:
    """Ids as rows of the slice [start, end), int64; -1 for those of other slices."""
    ids = ids.long()
    return torch.where((ids >= start) & (ids < end), ids - start, -1)


def global_ids(rows: Tensor, start: int) -> Tensor:
    """Ids of rows of a slice that begins at `start`; -1 stays."""
    return torch.where(rows >= 0, rows + start, -1)


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
    exclude: Ids,
    target_scores: Tensor,
    *,
    show_progress: bool = True,
) -> Tensor:
    """Count the competitors above each target's score, at it, and all: int64 [3, B].

    Targets of -1 are in another slice of the table. Ids must have been checked.
    """
    counts = query.new_zeros((3, query.shape[0]), dtype=torch.int64)
    for rows, (values, *rest), *ids, scores in over_slices(
        query, catalog, targets, exclude, target_scores, show_progress=show_progress
    ):
        found = torch.ops.rl4rec.rank_catalog(query[rows], values, *ids, *rest, scores)
        counts[:, rows] += torch.stack(found)
        counts[2, rows] -= 1  # each slice counts the target
    return counts


def over_slices(
    query: Tensor,
    catalog: Catalog,
    targets: Tensor,
    exclude: Ids,
    target_scores: Tensor,
    *,
    show_progress: bool,
) -> Iterator[tuple[Any, ...]]:
    """Yield what a call for each slice and some of the queries takes.

    These are the queries, as a slice of all, the rows, the targets among them, the excluded ids and
    their offsets, and the targets' scores.
    """
    for start, end, first, last in _pieces(query, catalog, "ranking", show_progress):
        yield (
            slice(first, last),
            _rows(catalog, start, end),
            local_ids(targets[first:last], start, end),
            *_local(_of_queries(exclude, first, last), start, end),
            target_scores[first:last],
        )


def rank_slices(query: Tensor, catalog: Catalog, targets: Tensor, exclude: Ids) -> RankCounts:
    """`rank_catalog` slice by slice."""
    check_ids(catalog.values.shape[0], targets, exclude, catalog.valid)
    scores = score_targets(query, catalog, targets)
    above, tied, competitors = count_slices(query, catalog, targets, exclude, scores)
    return RankCounts(above, tied, competitors + 1)


@torch.no_grad()
def best_of_slices(
    query: Tensor, catalog: Catalog, k: int, exclude: Ids, *, show_progress: bool = True
) -> tuple[Tensor, Tensor]:
    """`topk_catalog` slice by slice; the table may have fewer than k rows.

    Ids must have been checked.
    """
    scores = query.new_full((query.shape[0], k), -torch.inf, dtype=torch.float32)
    ids = scores.new_full(scores.shape, -1, dtype=torch.int64)
    for start, end, first, last in _pieces(query, catalog, "searching", show_progress):
        values, *rest = _rows(catalog, start, end)
        excluded = _local(_of_queries(exclude, first, last), start, end)
        found, rows = torch.ops.rl4rec.topk_catalog(
            query[first:last], values, min(k, end - start), *excluded, *rest
        )
        merge_best(scores[first:last], ids[first:last], found, global_ids(rows, start))
    return scores, ids


def merge_best(scores: Tensor, ids: Tensor, more_scores: Tensor, more_ids: Tensor) -> None:
    """Merge the best of later rows into the best so far, in place; both are sorted.

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
    if is_compiling() or not query.is_cpu:
        return False
    return type(query) in _REAL and type(catalog.values) in _REAL


def _bytes(catalog: Catalog) -> int:
    values, _, row_stats, source = catalog
    result = values.nbytes
    if row_stats is not None:
        result += row_stats.nbytes
    return result if source is None else result + source.nbytes


def _blocks(query: Tensor, num_values: int) -> list[tuple[int, int]]:
    """First query and end of each call, for a table of `num_values` values."""
    num_queries = step = query.shape[0]
    if 0 < num_queries * num_values <= _CALL_WORK:
        return [(0, num_queries)]
    if query.is_cpu:
        step = max(1, _CALL_WORK // max(1, num_values) // _WALK) * _WALK
    return [
        (first, min(first + step, num_queries)) for first in range(0, num_queries, max(1, step))
    ]


def _pieces(query: Tensor, catalog: Catalog, what: str, show: bool) -> Any:
    """Each slice with each block of queries: first row and end, first query and end."""
    num_rows, dim = catalog.values.shape
    step = max(1, SLICE_BYTES * num_rows // max(1, _bytes(catalog)))
    pieces = [
        (start, min(start + step, num_rows), *block)
        for start in range(0, num_rows, step)
        for block in _blocks(query, (min(start + step, num_rows) - start) * dim)
    ]
    is_long = num_rows * dim * max(query.shape[0], _WALK) > _LONG_WORK
    return progress(pieces, what, show=show and is_long)


def _of_queries(ids: Ids, first: int, end: int) -> Ids:
    """The ids of some of the queries."""
    values, offsets = ids
    if values is None or offsets is None:
        return ids if values is None else Ids(values[first:end], None)
    if (first, end) == (0, offsets.shape[0] - 1):
        return ids
    bounds = offsets[first : end + 1]
    return Ids(values[int(bounds[0]) : int(bounds[-1])], bounds - bounds[0])


def _local(ids: Ids, start: int, end: int) -> Ids:
    return ids if ids.values is None else Ids(local_ids(ids.values, start, end), ids.offsets)


def _rows(catalog: Catalog, start: int, end: int) -> Catalog:
    """A slice; nothing is copied."""
    for table in (catalog.values, catalog.source):
        if table is not None:
            check_mapped(table)
    values, *rest = catalog
    return Catalog(values[start:end], *(None if t is None else t[start:end] for t in rest))
