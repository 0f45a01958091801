"""What an evaluation measured."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rl4rec_kernels._utils.version import VERSION
from rl4rec_kernels.evaluation.correction import METHODS
from rl4rec_kernels.metrics import TieRule

# Names of the protocols; those of the corrected ones are by method.
SAMPLED = "sampled"
CATALOG = "whole catalog"
CORRECTED = {method: f"corrected ({method})" for method in METHODS}


class Estimate(NamedTuple):
    """A mean over users with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """Metrics of a set of users.

    Attributes
    ----------
    users : int
        Number of users.
    protocols : dict of str to dict of str to Estimate
        By protocol (``"sampled"``, ``"whole catalog"``, ``"corrected (unbiased)"``,
        ``"corrected (bias-variance)"``), then by metric (``"ndcg@10"``).
    """

    users: int
    protocols: dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Settings:
    """The options of an evaluation and the size of its data.

    Attributes
    ----------
    items, negatives : tuple of int, or None
        The smallest and the largest number of items, including the target, and of negatives that
        a target was ranked among.
    version : str
        The version of this library.
    about : dict
        What was evaluated: what the caller said of it.
    """

    ks: tuple[int, ...]
    ties: TieRule
    gamma: float
    num_bootstrap: int
    confidence: float
    seed: int
    items: tuple[int, int]
    negatives: tuple[int, int] | None
    version: str = VERSION
    about: dict[str, Any] = field(default_factory=dict)
