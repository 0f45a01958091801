"""The rank of each target among its candidates, as counts."""

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import check_embeddings, split_ids, widen_query


def rank_candidates(
    query: Tensor, table: Tensor, candidates: Tensor | RaggedIds, *, backend: str = "auto"
) -> RankCounts:
    """Count how each row's candidates score against its target.

    Neither a ``[B, C, D]`` gather nor a ``[B, C]`` score matrix is written: extra memory is O(B).
    The target is scored by the same arithmetic as its competitors, so equal embeddings tie.

    Parameters
    ----------
    query : Tensor, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor, shape [N, D]
        Embeddings of all items; of the dtype of `query`, or lower where `query` is float32.
    candidates : Tensor, shape [B, C], or RaggedIds with B rows
        int32 or int64 rows of the table. The first of each row is the target. -1 is padding;
        candidates with the target's id are dropped, other ids count as often as they stand.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        Who computes. ``"auto"`` takes what is best where the tensors are: C++ on the CPU; on a GPU
        CUDA C++ where it was compiled, else Triton.

    Returns
    -------
    RankCounts
        ``above``, ``tied`` and ``total``, int64 [B]. A NaN target ranks last (all competitors are
        above); a NaN competitor is never above and never tied, but counts in ``total``.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit, or a row has no target; the message names the
        argument.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    query = widen_query(query, table)
    check_embeddings(query, table)
    ids, offsets = split_ids("candidates", candidates, query)
    backend = _backends.resolve_backend(backend, query)
    if backend == "reference":
        return reference.rank_candidates(query, table, ids, offsets)
    return RankCounts(*_backends.operators(backend).rank_candidates(query, table, ids, offsets))


def _empty_counts(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    above, tied, total = (query.new_empty(query.shape[0], dtype=torch.int64) for _ in range(3))
    return above, tied, total


_backends.register("rank_candidates", _empty_counts)
