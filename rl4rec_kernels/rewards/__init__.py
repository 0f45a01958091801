"""The reward function that trainers call, its formulas, and how it reads a completion."""

from rl4rec_kernels.rewards.explanation import Explanation
from rl4rec_kernels.rewards.negatives import NegativesReport
from rl4rec_kernels.rewards.reward import RecReward, RecRewardFrunction, Scored

__all__ = ["Explanation", "NegativesReport", "RecReward", "RecRewardFrunction", "Scored"]
