"""Triton kernels of the operators.

They run on a GPU, and on the CPU if ``TRITON_INTERPRET=1`` is set before triton is first imported.
This package is imported when the first of them is called.

Each function takes its operator's arguments and, if the operator checks ids, a flag `bad`, int32
[1], which it sets if ids are bad, see `ops._backends`.
"""

from rl4rec_kernels.ops.triton.log_prob_candidates import log_prob_candidates
from rl4rec_kernels.ops.triton.log_prob_catalog import (
    add_ranges,
    log_prob_catalog,
    log_prob_catalog_grad,
    rank_log_prob_catalog,
)
from rl4rec_kernels.ops.triton.metrics import metrics_from_counts
from rl4rec_kernels.ops.triton.metrics_of_targets import metrics_of_targets
from rl4rec_kernels.ops.triton.rank_candidates import rank_candidates, reward_candidates
from rl4rec_kernels.ops.triton.rank_catalog import (
    rank_catalog,
    reward_catalog,
    score_catalog_targets,
)
from rl4rec_kernels.ops.triton.rank_catalog_targets import rank_catalog_targets
from rl4rec_kernels.ops.triton.score_candidates import score_candidates
from rl4rec_kernels.ops.triton.topk_catalog import topk_catalog
from rl4rec_kernels.ops.triton.weighted_segment_sum import weighted_segment_sum

__all__ = [
    "add_ranges",
    "log_prob_candidates",
    "log_prob_catalog",
    "log_prob_catalog_grad",
    "metrics_from_counts",
    "metrics_of_targets",
    "rank_candidates",
    "rank_catalog",
    "rank_catalog_targets",
    "rank_log_prob_catalog",
    "reward_candidates",
    "reward_catalog",
    "score_candidates",
    "score_catalog_targets",
    "topk_catalog",
    "weighted_segment_sum",
]
