"""The rank of each target among all items, as counts."""

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import check_column, split_catalog, widen_query
from rl4rec_kernels.ops._blocks import in_blocks, is_streamed, rank_slices
from rl4rec_kernels.ops.quantize import QuantizedTable


def rank_catalog(
    query: Tensor,
    table: Tensor | QuantizedTable,
    targets: Tensor,
    exclude: Tensor | RaggedIds | None = None,
    *,
    valid: Tensor | None = None,
    refine: bool = False,
    backend: str = "auto",
) -> RankCounts:
    """Count how all items score against each query's target.

    Scores are compared while they are in registers: there is neither a ``[B, N]`` matrix nor a
    top-k. The target is scored by the same arithmetic as its competitors, so equal embeddings tie.
    A table of more than 1 GiB goes slice by slice, so that one which is memory-mapped, and larger
    than memory, is read once; long work shows a progress bar.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor, shape [N, D], or QuantizedTable
        Embeddings of all items; of the dtype of `query`, or lower where `query` is float32.
    targets : Tensor, shape [B]
        int32 or int64 rows of the table.
    exclude : Tensor, shape [B, X], or RaggedIds with B rows, optional
        Items that do not compete with a query's target, for example the user's history; -1 is
        padding, repeats do no harm. It never removes the target itself.
    valid : Tensor, bool, shape [N], optional
        Which rows are items; others never compete. Default: all.
    refine : bool
        For a quantized table: score those items again, in float32, whose quantized score is so near
        the target's that rounding could decide, see Notes. Counts are then exactly those of the
        table that was quantized. Without, they are those of the rounded embeddings. Queries must be
        float32, finite and shorter than 1e18.
    backend : {"auto", "cpu", "triton", "reference"}
        Who computes. ``"auto"`` takes C++ on the CPU and Triton on a GPU.

    Returns
    -------
    RankCounts
        ``above``, ``tied`` and ``total``, int64 [B]. A NaN target ranks last (all competitors are
        above); a NaN competitor is never above and never tied, but counts in ``total``.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit, or a target's row is not valid; the message names
        the argument.
    IndexError
        If an id is not in the table; the message names it.

    Notes
    -----
    With `refine`, s = fl(q·t) is the float32 score of query q and item t, and ŝ = fl(q̂·t̂) that of
    their rounded copies. Then::

        |s - ŝ| <= |q·t - q̂·t̂| + |s - q·t| + |ŝ - q̂·t̂|
                <= ‖q - q̂‖ ‖t̂‖ + ‖q‖ ‖t - t̂‖
                   + γ ‖q‖ (‖t̂‖ + ‖t - t̂‖) + γ' (‖q‖ + ‖q - q̂‖) ‖t̂‖

    The first line is the triangle inequality. In the second, q·t - q̂·t̂ = (q - q̂)·t̂ + q·(t - t̂)
    and Cauchy-Schwarz give the first two terms. A sum of D products differs from the exact one by
    at most γ Σ|q_j t_j| <= γ ‖q‖ ‖t‖ for any order of additions, γ = D u / (1 - D u), u = 2^-24
    (Higham 2002, section 3.1), which gives the others; γ' also counts the roundings by the scales.
    All lengths are computed, none is assumed: those of items by `quantize_table`, rounded up. A
    constant covers underflow. So an item whose ŝ differs from the target's s by more than the bound
    is above or below it for sure; the others are scored by the arithmetic of s.
    """
    query = widen_query(query, table)
    catalog, ids, offsets = split_catalog(query, table, exclude, valid, refine)
    check_column("targets", targets, query)
    backend = _backends.resolve_backend(backend, query, cuda=False)
    if backend == "reference":
        exact = reference.exact_table(*catalog[:3])
        return reference.rank_catalog(query, exact, targets, ids, offsets, valid)
    if is_streamed(query, catalog):
        return rank_slices(query, catalog, targets, ids, offsets)
    operator = _backends.operators(backend).rank_catalog
    return RankCounts(*in_blocks(operator, query, catalog, targets, ids, offsets, None))


def _empty_counts(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    target_scores: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    above, tied, total = (query.new_empty(query.shape[0], dtype=torch.int64) for _ in range(3))
    return above, tied, total


def _empty_scores(
    query: Tensor, table: Tensor, targets: Tensor, row_stats: Tensor | None
) -> Tensor:
    return query.new_empty(query.shape[0], dtype=torch.float32)


_backends.register("rank_catalog", _empty_counts, cuda=False)
_backends.register("score_catalog_targets", _empty_scores, cuda=False)
