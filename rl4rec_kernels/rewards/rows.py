"""Rewards of rows that are given one by one, as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels.rewards.reward import RecReward


def reward_rows(reward_fn: RecReward, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the rewards of rows, some of which may have negatives and others not.

    Parameters
    ----------
    reward_fn : RecReward
        Computes them, in one call per kind.
    rows : sequence of mapping
        With ``text`` and ``target``, and optionally ``history`` and ``neg_items``. Without
        negatives besides padding (-1), the target is ranked among all items, whatever the other
        rows have.
    """
    has_negatives = [any(item != -1 for item in row.get("neg_items") or ()) for row in rows]
    rewards: list[float] = [0.0] * len(rows)
    for sampled in (True, False):
        chosen = [i for i, has in enumerate(has_negatives) if has is sampled]
        if chosen:
            values = reward_fn(
                generated_texts=[rows[i]["text"] for i in chosen],
                targets=[rows[i]["target"] for i in chosen],
                histories=[rows[i].get("history") or [] for i in chosen],
                neg_items=[rows[i]["neg_items"] for i in chosen] if sampled else None,
            )
            for i, value in zip(chosen, values, strict=True):
                rewards[i] = float(value)
    return rewards
