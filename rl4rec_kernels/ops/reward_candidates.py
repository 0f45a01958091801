"""Rank metrics of each target among its candidates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._arguments import check_embeddings, split_ids, widen_query


def reward_candidates(
    query: Tensor,
    table: Tensor,
    candidates: Tensor | RaggedIds,
    metrics: Sequence[str] = ("ndcg@10",),
    ties: str = "expected",
    *,
    backend: str = "auto",
) -> Tensor:
    """Compute rank metrics of each row's target in the kernel that ranks it.

    Parameters
    ----------
    query, table, candidates, backend
        As in `rank_candidates`.
    metrics : sequence of str
        M names out of ndcg@k, hit@k, mrr@k, mrr, auc, logrank, rank; see `metrics_from_counts` for
        their formulas.
    ties : {"expected", "optimistic", "pessimistic", "average"}
        How ties are ranked; see `metrics_from_counts`.

    Returns
    -------
    Tensor
        float32, shape [B, M]. Not differentiable: a rank is a step function.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices do not fit, a row has no target, or a metric or tie rule is
        unknown.
    IndexError
        If an id is not in the table; the message names its row and column.
    """
    parsed, rule = parse_metrics(metrics), parse_ties(ties)
    query = widen_query(query, table)
    check_embeddings(query, table)
    ids, offsets = split_ids("candidates", candidates, query)
    backend = _backends.resolve_backend(backend, query)
    if backend == "reference":
        return reference.reward_candidates(query, table, ids, offsets, parsed, rule).float()
    kinds, cutoffs = [int(m.kind) for m in parsed], [m.cutoff for m in parsed]
    return _backends.operators(backend).reward_candidates(
        query.detach(), table.detach(), ids, offsets, kinds, cutoffs, int(rule)
    )


def _empty_rewards(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
) -> Tensor:
    return query.new_empty((query.shape[0], len(kinds)), dtype=torch.float32)


_backends.register("reward_candidates", _empty_rewards)
