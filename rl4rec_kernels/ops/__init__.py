"""Tensor operators: one file an operator, `reference` defines them all."""

from rl4rec_kernels.ops._backends import cpu_level, cpu_levels, unchecked_ids, use_cpu_level
from rl4rec_kernels.ops.metrics import metrics_from_counts
from rl4rec_kernels.ops.rank_candidates import rank_candidates
from rl4rec_kernels.ops.rank_catalog import rank_catalog
from rl4rec_kernels.ops.reward_candidates import reward_candidates
from rl4rec_kernels.ops.reward_catalog import reward_catalog
from rl4rec_kernels.ops.score_candidates import score_candidates
from rl4rec_kernels.ops.topk_catalog import topk_catalog

__all__ = [
    "cpu_level",
    "cpu_levels",
    "metrics_from_counts",
    "rank_candidates",
    "rank_catalog",
    "reward_candidates",
    "reward_catalog",
    "score_candidates",
    "topk_catalog",
    "unchecked_ids",
    "use_cpu_level",
]
