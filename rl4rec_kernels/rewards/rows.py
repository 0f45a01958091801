"""Rewards of requests that come one by one, as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any


def reward_rows(reward_fn: Any, requests: Sequence[Mapping[str, Any]]) -> list[float]:
    """Rewards in the order of the requests, which may come with negatives or without.

    Parameters
    ----------
    reward_fn : RecReward
        Computes them.
    requests : sequence of mapping
        Each has ``text`` and ``target``, and may have ``history`` and ``neg_items``.
    """
    rewards: list[float] = [0.0] * len(requests)
    for sampled in (True, False):
        places = [i for i, r in enumerate(requests) if bool(r.get("neg_items")) is sampled]
        if not places:
            continue
        chosen = [requests[i] for i in places]
        values = reward_fn(
            generated_texts=[r["text"] for r in chosen],
            targets=[r["target"] for r in chosen],
            histories=[r.get("history") or [] for r in chosen],
            neg_items=[r["neg_items"] for r in chosen] if sampled else None,
        )
        for place, value in zip(places, values, strict=True):
            rewards[place] = float(value)
    return rewards
