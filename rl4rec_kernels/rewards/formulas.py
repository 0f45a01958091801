"""What a reward type is made of: metrics of the rank, the softmax of the target, weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.ids import RaggedIds, check_inside, rows_of, target_popularity
from rl4rec_kernels.metrics import RankCounts, parse_metric
from rl4rec_kernels.ops import metrics_from_counts

CUT_OFF_TYPES = ("ndcg", "hit", "mrr")
MIXED = {"ndcg": 0.7, "hit": 0.3}
SOFTMAX = "softmax"
SOFTMAX_MIX = "ndcg_softmax"


def reward_parts(reward_type: str, k: int, softmax_weight: float) -> dict[str, float]:
    """Return what a reward type is a weighted sum of: names of metrics, or ``"softmax"``.

    Raises
    ------
    ValueError
        If there is no such type.
    """
    if reward_type == SOFTMAX:
        return {SOFTMAX: 1.0}
    if reward_type == SOFTMAX_MIX:
        parts = {f"ndcg@{k}": 1 - softmax_weight, SOFTMAX: softmax_weight}
    elif reward_type == "mixed":
        parts = {f"{name}@{k}": weight for name, weight in MIXED.items()}
    elif reward_type in CUT_OFF_TYPES:
        parts = {f"{reward_type}@{k}": 1.0}
    else:
        parts = {reward_type: 1.0}
    for name in parts:
        try:
            if name != SOFTMAX:
                parse_metric(name)
        except ValueError as error:
            raise ValueError(
                f"reward_type {reward_type!r}: {error}; or ndcg, hit, mrr, mixed, "
                "ndcg_softmax, softmax, with k"
            ) from None
    return parts


def novelty_weights(targets: np.ndarray, item_counts: np.ndarray, novelty: float) -> np.ndarray:
    """Weigh targets by inverse popularity: (1 + n)^-novelty for an item taken n times.

    Raises
    ------
    IndexError
        If a target has no count.
    """
    return (1.0 + target_popularity(targets, item_counts)) ** -novelty


def check_item_counts(item_counts: Any) -> np.ndarray:
    """Check that there is one count an item, shape [num_items].

    Raises
    ------
    ValueError
        If they are no whole numbers of at least 0 in one row.
    """
    counts = np.asarray(item_counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
        raise ValueError(
            "item_counts must be a whole number of at least 0 for each item id, got "
            f"{counts.dtype} {counts.shape}; pass dataset.item_counts"
        )
    return counts


def counts_of_scores(scores: Tensor, columns: Tensor) -> RankCounts:
    """Count how others score against the target, whose column of each row is in `columns`.

    ``-inf`` marks what does not compete.
    """
    own = scores.gather(1, columns[:, None])
    above, tied = (scores > own).sum(1), (scores == own).sum(1) - 1
    return RankCounts(above, tied, (scores > -torch.inf).sum(1))


def leave_out(scores: Tensor, targets: Tensor, histories: RaggedIds) -> Tensor:
    """Set the scores [B, N] of what users had to ``-inf``, but never the target's.

    Raises
    ------
    IndexError
        If a history holds an item beyond the table.
    """
    check_inside("histories", histories.values, scores.shape[1])
    own = scores.gather(1, targets[:, None])
    rest = scores.clone()
    rest[torch.from_numpy(rows_of(histories)), torch.from_numpy(histories.values)] = -torch.inf
    return rest.scatter_(1, targets[:, None], own)


def softmax_of_target(scores: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """The softmax of each row at its target, float64, shape [B]."""
    return torch.softmax(scores.double() / temperature, 1).gather(1, columns[:, None])[:, 0]


def parts_table(
    names: Sequence[str], counts: RankCounts, softmax: Tensor | None, ties: str
) -> np.ndarray:
    """The values of `names` for every row, float64, shape [B, len(names)]."""
    metrics = [name for name in names if name != SOFTMAX]
    table = metrics_from_counts(counts, metrics, ties).double().cpu()
    columns = dict(zip(metrics, table.unbind(1), strict=True))
    if softmax is not None:
        columns[SOFTMAX] = softmax
    return torch.stack([columns[name] for name in names], 1).numpy()


def check_groups(group_size: Any, normalize: bool) -> int | None:
    """Check `group_size`, which only `normalize` uses.

    Raises
    ------
    TypeError, ValueError
        If it is no whole number of at least 2, or `normalize` is off.
    """
    if group_size is None:
        return None
    if not normalize:
        raise ValueError(
            f"group_size={group_size} is used by normalize=True only; pass it, or "
            "leave normalisation to the trainer"
        )
    return whole_number("group_size", group_size, 2)


def normalized(rewards: np.ndarray, group_size: int | None) -> np.ndarray:
    """Scale each group of consecutive rewards (None: all) to mean 0 and standard deviation 1.

    A group without spread becomes 0.
    """
    groups = rewards.reshape(-1, group_size or len(rewards))
    spread = groups.std(1, keepdims=True)
    flat = groups.max(1, keepdims=True) == groups.min(1, keepdims=True)  # rounding may leave a std
    scaled = (groups - groups.mean(1, keepdims=True)) / np.where(flat, 1, spread)
    return np.where(flat, 0, scaled).reshape(-1)
