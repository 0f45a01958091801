"""A checked call of a reward, and its targets, of which a text may have one or several."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.ids import RaggedIds, target_popularity
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.rewards.negatives import NegativesReport

Targets = np.ndarray | RaggedIds
"""One target per text, int64 [B], or RaggedIds with B rows."""


class Request(NamedTuple):
    """The checked arguments of a call."""

    queries: list[str]
    targets: Targets
    histories: RaggedIds | None
    negatives: RaggedIds | None
    removed: NegativesReport
    weights: np.ndarray | None  # of the texts, if there is novelty


class Scored(NamedTuple):
    """What `RecReward.score` returns.

    Attributes
    ----------
    rewards : list of float
        B rewards.
    counts : RankCounts
        How the competitors of each target score, int64 [B] each.
    offsets : Tensor, optional
        With several targets per text, of which counts are whose: see `metrics_from_counts`.
    """

    rewards: list[float]
    counts: RankCounts
    offsets: Tensor | None = None


def offsets_of(targets: Targets) -> Tensor | None:
    """The offsets of several targets per text, as `metrics_from_counts` takes them."""
    return torch.from_numpy(targets.offsets) if isinstance(targets, RaggedIds) else None


def mean_of_text(values: np.ndarray, targets: Targets) -> np.ndarray:
    """The mean of a value of each target over the targets of a text, float64 [B]."""
    if not isinstance(targets, RaggedIds):
        return values
    return np.add.reduceat(values, targets.offsets[:-1]) / np.diff(targets.offsets)


def novelty_weights(targets: Targets, item_counts: np.ndarray, novelty: float) -> np.ndarray:
    """(1 + n)^-novelty of targets with n interactions, as a mean for each text."""
    ids = targets.values if isinstance(targets, RaggedIds) else targets
    weights = (1.0 + target_popularity(ids, item_counts)) ** -novelty
    return mean_of_text(weights, targets)


def best_target(above: list[int], targets: Targets) -> tuple[int, int]:
    """Which target of the first text ranks best, and how many the text has."""
    count = int(targets.offsets[1]) if isinstance(targets, RaggedIds) else 1
    return int(np.argmin(above[:count])), count
