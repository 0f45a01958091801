"""The reward function that trainers call, its formulas, and what it reads of a completion."""

from rl4rec_kernels.rewards.reward import NegativesReport, RecReward, RecRewardFrunction, Scored

__all__ = ["NegativesReport", "RecReward", "RecRewardFrunction", "Scored"]
