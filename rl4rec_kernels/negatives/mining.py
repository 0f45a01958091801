"""Hard negatives: the items that a query is nearest to although they are wrong."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.ids import (
    RaggedIds,
    as_ragged,
    check_inside,
    check_targets,
    check_valid_items,
    count_items,
    valid_rows,
    with_targets,
)
from rl4rec_kernels.ops import topk_catalog
from rl4rec_kernels.ops._arguments import split_table
from rl4rec_kernels.ops.quantize import QuantizedTable

_BLOCK = 4096  # queries a call, so that the work shows its progress and can be interrupted


def mine_hard_negatives(
    query: Tensor,
    table: Tensor | QuantizedTable,
    targets: Any,
    seen: Any,
    num_negs: int,
    skip_top: int = 0,
    *,
    valid: Tensor | None = None,
    refine: bool = False,
    user_ids: npt.ArrayLike | None = None,
    show_progress: bool | None = None,
    backend: str = "auto",
) -> npt.NDArray[np.int64]:
    """Find the items that score highest for each query among those that are no answer to it.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        float32, float16 or bfloat16; finite.
    table : Tensor, shape [N, D], or QuantizedTable
        Embeddings of all items, such as `ItemIndex.table`; finite.
    targets : B item ids
        The true next items. They are no negatives, whatever `seen` says.
    seen : B lists of item ids, a [B, X] array padded with -1, or RaggedIds
        Items that must not be mined, for example all that a user ever took
        (`RecommendationDataset.seen`); repeats do no harm.
    num_negs : int
        How many to find for each query, from 1.
    skip_top : int
        Leave out this many of the best first. What scores highest may well be right although
        nobody took it yet (a false negative): ranks from ``skip_top + 1`` on are safer.
    valid : Tensor, bool, shape [N], optional
        Which rows are items (`ItemIndex.valid`); others are never found. Default: all. Pass it
        where row 0 is padding.
    refine : bool
        For a quantized table: find exactly what the table that was quantized gives; see
        `topk_catalog`.
    user_ids : int, shape [B], optional
        The users, for errors to name.
    show_progress : bool, optional
        Whether to show a progress bar; by default for more than 4,096 queries.
    backend : {"auto", "cpu", "reference"}
        Who computes.

    Returns
    -------
    ndarray
        int64, shape [B, num_negs]: the best first, of equal scores the lower id. A row depends on
        its own query, target and seen items only, to the last bit.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, an embedding is not finite, or too few items are left for a
        query; the message names the row, the user if there are `user_ids`, and the counts.
    IndexError
        If an id is not in the table, or a target no item by `valid`; the message names it.

    Notes
    -----
    Metrics among hard negatives are far lower than among random ones, and the corrections of
    `corrected_metrics` do not hold for them.

    Examples
    --------
    >>> import torch
    >>> table = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    >>> mine_hard_negatives(torch.ones(1, 1), table, targets=[3], seen=[[0]], num_negs=2)
    array([[4, 2]])
    """
    values, _, _ = split_table(query, table, refine)
    num_queries, num_rows = query.shape[0], values.shape[0]
    num_negs = whole_number("num_negs", num_negs, 1)
    skip_top = whole_number("skip_top", skip_top, 0)
    items = check_targets(targets, num_queries)
    is_item = valid_rows(valid, num_rows)
    check_valid_items("targets", items, is_item)
    taken = as_ragged("seen", seen, num_queries)
    check_inside("seen", taken.values, num_rows)
    users = None if user_ids is None else np.asarray(user_ids)
    if users is not None and users.shape != (num_queries,):
        raise ValueError(
            f"user_ids must have one id for each of the {num_queries} queries, "
            f"got shape {users.shape}"
        )
    left = count_items(items, taken, is_item) - 1  # without the target
    _check_enough(left, num_negs, skip_top, users)
    check_finite("query", query)
    if not isinstance(table, QuantizedTable):  # quantize_table checks its own
        check_finite("table", table)

    taken = with_targets(items, taken)
    negatives = np.empty((num_queries, num_negs), dtype=np.int64)
    show = num_queries > _BLOCK if show_progress is None else show_progress
    for start in progress(range(0, num_queries, _BLOCK), "mining negatives", show=show):
        rows = slice(start, start + _BLOCK)
        _, ids = topk_catalog(
            query[rows],
            table,
            skip_top + num_negs,
            _rows(taken, rows),
            valid=valid,
            refine=refine,
            backend=backend,
        )
        negatives[rows] = ids[:, skip_top:].cpu().numpy()
    lost = (negatives == -1).any(1)
    if lost.any():
        raise ValueError(
            f"query: the scores of row {lost.argmax()} overflow float32; scale the "
            "embeddings, for example to length 1"
        )
    return negatives


def _rows(ragged: RaggedIds, rows: slice) -> RaggedIds:
    """Some rows of ragged ids."""
    offsets = ragged.offsets[rows.start : rows.stop + 1]
    return RaggedIds(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _check_enough(left: np.ndarray, num_negs: int, skip_top: int, users: np.ndarray | None) -> None:
    """Check that every query has enough items left."""
    short = np.flatnonzero(left < skip_top + num_negs)
    if short.size:
        row = short[0]
        who = f"row {row}" if users is None else f"user {users[row]} (row {row})"
        raise ValueError(
            f"{who} has {left[row]} items that are neither its target nor seen, but "
            f"num_negs={num_negs} after skip_top={skip_top} need "
            f"{skip_top + num_negs}; ask for fewer"
        )
