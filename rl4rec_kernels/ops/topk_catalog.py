"""The best items of each query among all items."""

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import split_catalog, widen_query
from rl4rec_kernels.ops._blocks import best_of_slices, check_ids, in_blocks, is_streamed
from rl4rec_kernels.ops.quantize import QuantizedTable


def topk_catalog(
    query: Tensor,
    table: Tensor | QuantizedTable,
    k: int,
    exclude: Tensor | RaggedIds | None = None,
    *,
    valid: Tensor | None = None,
    refine: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Find the k items that score highest for each query.

    Items stream past the queries; those that may be among the best are kept. Memory does not grow
    with B * N. A table of more than 1 GiB goes slice by slice, as in `rank_catalog`.

    Parameters
    ----------
    query, table, exclude, valid, backend
        As in `rank_catalog`; excluded items are not found.
    k : int
        From 1 to N.
    refine : bool
        For a quantized table: score all items again, in float32, that could be among the best given
        the rounding. Results are then exactly those of the table that was quantized. Where k is
        more than N / 32 that would be most of the work, and the table itself is scored instead.

    Returns
    -------
    scores : Tensor, float32, shape [B, k]
        Descending. Where fewer than k items are left, -inf follows.
    ids : Tensor, int64, shape [B, k]
        Of equal scores the lower id comes first; -1 where there is no item. Items that score NaN
        or -inf are never found.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit, or k is out of range; the message names the
        argument.
    IndexError
        If an excluded id is not in the table; the message names it.
    """
    query = widen_query(query, table)
    catalog, ids, offsets = split_catalog(query, table, exclude, valid, refine)
    k = whole_number("k", k, 1)
    num_rows = catalog.values.shape[0]
    if k > num_rows:
        raise ValueError(f"k is {k} but the table has only {num_rows} rows; ask for fewer")
    backend = _backends.resolve_backend(backend, query, cuda=False)
    if backend == "reference":
        exact = reference.exact_table(*catalog[:3])
        scores, best = reference.topk_catalog(query, exact, k, ids, offsets, valid)
        return scores.float(), best
    if is_streamed(query, catalog):
        check_ids(num_rows, None, ids, offsets)
        return best_of_slices(query, catalog, k, ids, offsets)
    with torch.no_grad():
        operator = _backends.operators(backend).topk_catalog
        return in_blocks(operator, query, catalog, k, ids, offsets)


def _empty_best(
    query: Tensor,
    table: Tensor,
    k: int,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    scores, ids = (query.new_empty(shape, dtype=t) for t in (torch.float32, torch.int64))
    return scores, ids


_backends.register("topk_catalog", _empty_best, cuda=False)
