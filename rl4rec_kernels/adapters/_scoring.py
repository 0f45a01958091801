"""What adapters share: the reward by its options, and the values that a sample earns."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rl4rec_kernels.data.labels import Label
from rl4rec_kernels.ops import metrics_from_counts
from rl4rec_kernels.rewards.completions import completion_text, strip_special_tokens
from rl4rec_kernels.rewards.reward import RecReward, Scored

VARIABLE = "RL4REC_REWARD"


class RewardLost(BaseException):
    """A reward could not be computed; no `Exception`, for trainers that go on without a reward."""


def reward_from_environment() -> RecReward:
    """Return the reward whose options are in ``RL4REC_REWARD``.

    Raises
    ------
    ValueError, TypeError
        If they are not set, or no JSON object, or no options of `RecReward`.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        raise ValueError(
            f"{VARIABLE} is not set; set it to the options of RecReward as JSON, for "
            'example {"dataset_name": "beauty", "reward_type": "ndcg"}'
        )
    return _cached(text)


def reward_for(options: Mapping[str, Any] | None) -> RecReward:
    """Return the reward of these options, or without any of those in ``RL4REC_REWARD``."""
    return reward_from_environment() if options is None else reward_by(options)


def reward_by(options: Mapping[str, Any]) -> RecReward:
    """Return the reward of these options: one a process, not one a sample."""
    return _cached(json.dumps(dict(options), sort_keys=True, default=_plain))


def _plain(value: Any) -> Any:
    """Make a list of an array, a tensor or a list of OmegaConf."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


@lru_cache(maxsize=16)
def _cached(text: str) -> RecReward:
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{VARIABLE} is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(options, dict):
        raise TypeError(f"{VARIABLE} must be a JSON object of options, got {text[:80]!r}")
    try:
        reward = RecReward(**options)
    except TypeError as error:
        raise TypeError(f"options of the reward {options}: {error}") from None
    if reward.normalize:
        raise ValueError(
            "normalize=True scales the rewards of one call, but this trainer may send "
            "a single text a call, which would always earn 0; leave it off, trainers "
            "normalise in groups"
        )
    return reward


def score(
    reward: RecReward, texts: Sequence[Any], labels: Sequence[Label]
) -> list[dict[str, float]]:
    """Score texts; each gets a dict of ``score``, ``rank`` and ``hit``, always these keys."""
    return _values(reward, reward.score(*_columns(texts, labels)))


async def score_async(
    reward: RecReward, texts: Sequence[Any], labels: Sequence[Label]
) -> list[dict[str, float]]:
    """As `score`, from a coroutine."""
    return _values(reward, await reward.score_async(*_columns(texts, labels)))


def _columns(texts: Sequence[Any], labels: Sequence[Label]) -> tuple[Any, ...]:
    plain = [strip_special_tokens(completion_text(text, i)) for i, text in enumerate(texts)]
    targets, histories, negatives = zip(*labels, strict=True) if labels else ((), (), ())
    return plain, list(targets), list(histories), list(negatives)


def _values(reward: RecReward, scored: Scored) -> list[dict[str, float]]:
    ranks, hits = ranks_and_hits(reward, scored)
    return [
        {"score": score, "rank": rank, "hit": hit}
        for score, rank, hit in zip(scored.rewards, ranks, hits, strict=True)
    ]


def ranks_and_hits(reward: RecReward, scored: Scored) -> tuple[list[float], list[float]]:
    """Each target's rank, and whether it is among the first k (a share of 1 if it is tied)."""
    table = metrics_from_counts(scored.counts, ("rank", f"hit@{reward.k}"), reward.ties)
    ranks, hits = table.double().cpu().unbind(1)
    return ranks.tolist(), hits.tolist()
