"""Tensor operators, one module per family; `reference` defines them all."""

from rl4rec_kernels.ops._backends import cpu_level, cpu_levels, unchecked_ids, use_cpu_level
from rl4rec_kernels.ops.candidates import (
    rank_candidates,
    rank_candidates_refined,
    reward_candidates,
    score_candidates,
)
from rl4rec_kernels.ops.catalog import rank_catalog, reward_catalog, topk_catalog
from rl4rec_kernels.ops.log_prob import log_prob_candidates, log_prob_catalog, rank_with_log_prob
from rl4rec_kernels.ops.metrics import metrics_from_counts

__all__ = [
    "cpu_level",
    "cpu_levels",
    "log_prob_candidates",
    "log_prob_catalog",
    "metrics_from_counts",
    "rank_candidates",
    "rank_candidates_refined",
    "rank_catalog",
    "rank_with_log_prob",
    "reward_candidates",
    "reward_catalog",
    "score_candidates",
    "topk_catalog",
    "unchecked_ids",
    "use_cpu_level",
]
