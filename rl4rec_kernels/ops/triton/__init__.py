"""Triton kernels of the operators, one file an operator.

They run on a GPU, and on the CPU where ``TRITON_INTERPRET=1`` is set before the first import of
triton. This package is imported when the first of them is called.

Each function takes its operator's arguments, then a flag `bad`, int32 [1], that it raises where ids
do not fit, see `ops._gpu`.
"""

from rl4rec_kernels.ops.triton.metrics import metrics_from_counts
from rl4rec_kernels.ops.triton.rank_candidates import rank_candidates, reward_candidates
from rl4rec_kernels.ops.triton.rank_catalog import (
    rank_catalog,
    reward_catalog,
    score_catalog_targets,
)
from rl4rec_kernels.ops.triton.score_candidates import (
    score_candidates,
    score_candidates_grad_query,
    score_candidates_grad_table,
)
from rl4rec_kernels.ops.triton.topk_catalog import topk_catalog

__all__ = [
    "metrics_from_counts",
    "rank_candidates",
    "rank_catalog",
    "reward_candidates",
    "reward_catalog",
    "score_candidates",
    "score_candidates_grad_query",
    "score_candidates_grad_table",
    "score_catalog_targets",
    "topk_catalog",
]
