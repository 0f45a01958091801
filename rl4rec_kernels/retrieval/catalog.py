"""Ranks over the whole catalog, by blocks of queries."""

import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import rank_candidates
from rl4rec_kernels.ragged import RaggedIds

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
    targets : Tensor, int64 [B]
        Rows of the table.
    exclude : RaggedIds with B rows, optional
        Items that do not compete, for example the user's history. A target is never excluded.
    valid : Tensor, bool [N], optional
        Rows that may compete; by default all.

    Returns
    -------
    RankCounts
        As from `rank_candidates`.

    Raises
    ------
    TypeError
        If `exclude` is no RaggedIds.
    """
    if exclude is not None and not isinstance(exclude, RaggedIds):
        raise TypeError(f"exclude must be RaggedIds, got {type(exclude).__name__}; lists of ids "
                        "become one by RaggedIds.from_lists(...)")  # fmt: skip
    num_rows = table.shape[0]
    id_dtype = torch.int32 if num_rows < 2**31 else torch.int64
    items = torch.arange(num_rows, dtype=id_dtype)
    if valid is not None:
        items = items.masked_fill(~valid, -1)
    values, offsets = (torch.as_tensor(part) for part in exclude) if exclude else (None, None)
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
            candidates[row, 1 + values[offsets[rows.start] : offsets[rows.stop]].long()] = -1
        parts.append(rank_candidates(query[rows], table, candidates))
    if not parts:
        return RankCounts(*(torch.empty(0, dtype=torch.int64) for _ in RankCounts._fields))
    return RankCounts(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
