"""Ranks over the whole catalog, by blocks of queries."""

import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import rank_candidates
from rl4rec_kernels.ops._arguments import check_embeddings
from rl4rec_kernels.ragged import RaggedIds
from rl4rec_kernels.retrieval.ids import as_ragged, check_inside

_BLOCK_BYTES = 64 << 20  # of candidate ids


def rank_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: RaggedIds | None = None,
    valid: Tensor | None = None,
) -> RankCounts:
    """Count how all items score against each row's target.

    Every item is made a candidate of `rank_candidates`, a block of queries at a time: scores, ties
    and non-finite values are as there, and memory does not grow with B * N.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        Queries.
    table : Tensor, shape [N, D]
        All items.
    targets : Tensor, int32 or int64 [B]
        Rows of the table.
    exclude : RaggedIds with B rows, optional
        Items that do not compete, for example the user's history; -1 is padding. A target is never
        excluded.
    valid : Tensor, bool [N], optional
        Rows that may compete; by default all.

    Returns
    -------
    RankCounts
        As from `rank_candidates`.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.
    IndexError
        If a target or an excluded item is not in the table.
    """
    check_embeddings(query, table)
    num_rows = table.shape[0]
    if not isinstance(targets, Tensor) or targets.dtype not in (torch.int32, torch.int64):
        raise TypeError("targets must be a tensor of int32 or int64 ids, one for each query, got "
                        f"{getattr(targets, 'dtype', type(targets).__name__)}")  # fmt: skip
    if targets.shape != query.shape[:1]:
        raise ValueError(f"targets must be [{query.shape[0]}], one id for each query, got "
                         f"{tuple(targets.shape)}")  # fmt: skip
    check_inside("targets", targets.numpy(), num_rows)
    values = offsets = None
    if exclude is not None:
        if not isinstance(exclude, RaggedIds):
            raise TypeError(f"exclude must be RaggedIds, got {type(exclude).__name__}; lists of "
                            "ids become one by RaggedIds.from_lists(...)")  # fmt: skip
        exclude = as_ragged("exclude", exclude, len(targets))
        check_inside("exclude", exclude.values, num_rows)
        values, offsets = (torch.from_numpy(part) for part in exclude)
    id_dtype = torch.int32 if num_rows < 2**31 else torch.int64
    items = torch.arange(num_rows, dtype=id_dtype)
    if valid is not None:
        if valid.dtype != torch.bool or valid.shape != (num_rows,):
            raise ValueError(f"valid must be bool [{num_rows}], got {valid.dtype} "
                             f"{tuple(valid.shape)}")  # fmt: skip
        items = items.masked_fill(~valid, -1)
    block = max(1, _BLOCK_BYTES // (id_dtype.itemsize * (num_rows + 1)))
    parts = []
    for start in range(0, len(targets), block):
        rows = slice(start, min(start + block, len(targets)))
        count = rows.stop - rows.start
        candidates = items.new_empty(count, 1 + num_rows)
        candidates[:, 0] = targets[rows]
        candidates[:, 1:] = items
        if values is not None and offsets is not None:
            lengths = offsets[rows.start + 1 : rows.stop + 1] - offsets[rows]
            row = torch.arange(count).repeat_interleave(lengths)
            candidates[row, 1 + values[offsets[rows.start] : offsets[rows.stop]]] = -1
        parts.append(rank_candidates(query[rows], table, candidates))
    if not parts:
        return RankCounts(*(torch.empty(0, dtype=torch.int64) for _ in RankCounts._fields))
    return RankCounts(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
