"""What a reward type is made of: metrics of the rank, the target's softmax, scaling."""

from typing import Literal

import numpy as np

from rl4rec_kernels._utils.arrays import as_array
from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.metrics import parse_metric

RewardName = Literal[
    "ndcg", "hit", "mrr", "recall", "precision", "map", "mixed", "softmax", "ndcg_softmax"
]
RewardType = RewardName | str
"""A name, or any metric of `metrics_from_counts`."""

CUT_OFF_TYPES = ("ndcg", "hit", "mrr")
_OF_SEVERAL = ("recall", "precision", "map")  # with one target they are hit, hit / k and mrr
MIXED = {"ndcg": 0.7, "hit": 0.3}
SOFTMAX = "softmax"


def reward_parts(reward_type: RewardType, k: int, softmax_weight: float) -> dict[str, float]:
    """Return the weights of a reward's parts by name: metrics, then ``"softmax"`` if it has one.

    Raises
    ------
    ValueError
        If there is no such type.
    """
    types = {name: {f"{name}@{k}": 1.0} for name in (*CUT_OFF_TYPES, *_OF_SEVERAL)} | {
        "mixed": {f"{name}@{k}": weight for name, weight in MIXED.items()},
        SOFTMAX: {SOFTMAX: 1.0},
        "ndcg_softmax": {f"ndcg@{k}": 1 - softmax_weight, SOFTMAX: softmax_weight},
    }
    reward_type = reward_type.lower() if isinstance(reward_type, str) else reward_type
    try:
        parts = types.get(reward_type) or {reward_type: 1.0}
        for name in parts.keys() - {SOFTMAX}:
            parse_metric(name)
    except (TypeError, ValueError) as error:  # a name must be hashable
        raise ValueError(
            f"reward_type must be a metric or one of {', '.join(types)}, got {shown(reward_type)}: "
            f"{error}"
        ) from None
    return parts


def check_item_counts(item_counts: object) -> np.ndarray:
    """Return the interactions per item as an array, or raise ValueError."""
    counts = as_array("item_counts", item_counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iuf":
        bad = f"{counts.dtype} {counts.shape}"
    else:
        with np.errstate(invalid="ignore"):  # NaN and infinity are not whole numbers
            whole = counts.astype(np.int64)
        wrong = np.flatnonzero((whole != counts) | (whole < 0))
        if not wrong.size:
            return whole
        bad = f"{counts.dtype} with {counts[wrong[0]]} for item {wrong[0]}"
    raise ValueError(
        "item_counts must be a whole number of at least 0 for each item id, got "
        f"{bad}; pass dataset.item_counts"
    )


def normalized(rewards: np.ndarray, group_size: int | None) -> np.ndarray:
    """Scale each group of consecutive rewards (None: all) to mean 0 and standard deviation 1.

    All rewards of a group become 0 if they are equal.
    """
    groups = rewards.reshape(-1, group_size or len(rewards))
    spread = groups.std(1, keepdims=True)
    flat = groups.max(1, keepdims=True) == groups.min(1, keepdims=True)  # std may round to above 0
    scaled = (groups - groups.mean(1, keepdims=True)) / np.where(flat, 1, spread)
    return np.where(flat, 0, scaled).reshape(-1)
