"""Negatives: drawn at random, mined, or given, and the checks of all three."""

from rl4rec_kernels.negatives.mining import mine_hard_negatives
from rl4rec_kernels.negatives.sampling import sample_negatives

__all__ = ["mine_hard_negatives", "sample_negatives"]
