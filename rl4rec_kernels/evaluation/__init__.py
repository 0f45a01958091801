"""Evaluation: all metrics at many cut-offs from one ranking, with intervals, by group of users."""

from rl4rec_kernels.evaluation.accumulator import Evaluator
from rl4rec_kernels.evaluation.groups import history_lengths
from rl4rec_kernels.evaluation.protocols import evaluate
from rl4rec_kernels.evaluation.report import Evaluation
from rl4rec_kernels.evaluation.result import Estimate, Results
from rl4rec_kernels.ids import target_popularity

__all__ = [
    "Estimate",
    "Evaluation",
    "Evaluator",
    "Results",
    "evaluate",
    "history_lengths",
    "target_popularity",
]
