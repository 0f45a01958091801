"""Hard negatives: the wrong items that score highest for a query."""

import numpy as np
import numpy.typing as npt

from rl4rec_kernels._utils.arrays import Array, as_array
from rl4rec_kernels._utils.checks import amount, optional_flag
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.ids import (
    IdList,
    IdLists,
    as_ragged,
    check_inside,
    check_targets,
    check_valid_items,
    count_items,
    prepend,
    slice_rows,
    valid_rows,
)
from rl4rec_kernels.ops import topk_catalog
from rl4rec_kernels.ops._arguments import as_embeddings, check_catalog
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops.quantize import QuantizedTable

_BLOCK = 4096  # queries per call, to show progress and to let Ctrl-C through


def mine_hard_negatives(
    query: Array,
    table: Array | QuantizedTable,
    targets: IdList,
    seen: IdLists,
    num_negs: int,
    skip_top: int = 0,
    *,
    valid: Array | None = None,
    refine: bool = False,
    user_ids: npt.ArrayLike | None = None,
    show_progress: bool | None = None,
    backend: Backend = "auto",
) -> npt.NDArray[np.int64]:
    """Find the items that score highest for each query, without its target and seen items.

    Parameters
    ----------
    query : Tensor or array, shape [B, D]
        float32, float16 or bfloat16; finite.
    table : Tensor or array, shape [N, D], or QuantizedTable
        Embeddings of all items, such as `ItemIndex.table`; finite.
    targets : B item ids
        The true next items, which are never negatives.
    seen : B lists of item ids, a [B, X] array padded with -1, or RaggedIds
        Items that must not be mined, for example all items the user interacted with
        (`RecommendationDataset.seen`). May contain repeats.
    num_negs : int
        How many to find per query, at least 1.
    skip_top : int
        How many of the highest scoring items to skip first. These may be false negatives: right
        answers that nobody has interacted with yet.
    valid : Tensor, bool, shape [N], optional
        Which rows are items (`ItemIndex.valid`); others are never found. Default: all. Pass it
        if row 0 is padding.
    refine : bool
        For a quantized table: return exactly what the original table gives; see `topk_catalog`.
    user_ids : int, shape [B], optional
        The users, to be named in errors.
    show_progress : bool, optional
        Whether to show a progress bar. Default: for more than 4,096 queries.
    backend : {"auto", "cpu", "reference"}
        The implementation to use.

    Returns
    -------
    ndarray
        int64, shape [B, num_negs]: highest score first, lower ids first among equal scores. A row
        depends only on its own query, target and seen items, bit for bit.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, an embedding is not finite, or a query has too few items left;
        the message names the row, the user if `user_ids` are given, and the counts.
    IndexError
        If an id is not in the table, or a target is not an item according to `valid`.

    Notes
    -----
    Metrics among hard negatives are far lower than among random ones, and the corrections of
    `corrected_metrics` do not apply to them.

    Examples
    --------
    >>> import torch
    >>> table = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    >>> mine_hard_negatives(torch.ones(1, 1), table, targets=[3], seen=[[0]], num_negs=2)
    array([[4, 2]])
    """
    query, table = as_embeddings(query, table)
    catalog = check_catalog(query, table, refine=refine)
    num_queries, num_rows = query.shape[0], catalog.values.shape[0]
    num_negs = amount("num_negs", num_negs, 1)
    skip_top = amount("skip_top", skip_top, 0)
    items = check_targets(targets, num_queries)
    is_item = valid_rows(valid, num_rows)
    check_valid_items("targets", items, is_item)
    excluded = as_ragged("seen", seen, num_queries)
    check_inside("seen", excluded, num_rows)
    users = None if user_ids is None else as_array("user_ids", user_ids)
    if users is not None and users.shape != (num_queries,):
        raise ValueError(f"user_ids must have shape ({num_queries},), got {users.shape}")
    show = optional_flag("show_progress", show_progress)
    show = num_queries > _BLOCK if show is None else show
    left = count_items(items, excluded, is_item) - 1  # without the target
    _check_enough(left, num_negs, skip_top, users)
    check_finite("query", query)
    if not isinstance(table, QuantizedTable):  # quantize_table checks its own
        check_finite("table", table)

    excluded = prepend(items[:, None], excluded)
    negatives = np.empty((num_queries, num_negs), dtype=np.int64)
    for start in progress(range(0, num_queries, _BLOCK), "mining negatives", show=show):
        rows = slice(start, start + _BLOCK)
        _, ids = topk_catalog(
            query[rows],
            table,
            skip_top + num_negs,
            slice_rows(excluded, rows.start, rows.stop),
            valid=valid,
            refine=refine,
            backend=backend,
        )
        negatives[rows] = ids[:, skip_top:].cpu().numpy()
    lost = (negatives == -1).any(1)
    if lost.any():
        raise ValueError(
            f"query: the scores of row {lost.argmax()} overflow float32; scale the embeddings, "
            "for example to length 1"
        )
    return negatives


def _check_enough(left: np.ndarray, num_negs: int, skip_top: int, users: np.ndarray | None) -> None:
    short = np.flatnonzero(left < skip_top + num_negs)
    if short.size:
        row = short[0]
        who = f"row {row}" if users is None else f"user {users[row]} (row {row})"
        raise ValueError(
            f"{who} has {left[row]} items that are neither its target nor seen, but "
            f"num_negs={num_negs} after skip_top={skip_top} need {skip_top + num_negs}"
        )
