"""The reward of easyr1_grpo.sh, which EasyR1 loads from this file."""

from rl4rec_kernels.adapters.easyr1 import compute_score

__all__ = ["compute_score"]
