"""What the adapters share: the reward for given options, and the values of each sample."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.labels import (
    Id,
    is_missing_id,
    raw_item_ids,
    raw_item_or_items,
    read_label,
)
from rl4rec_kernels.ops import metrics_from_counts
from rl4rec_kernels.rewards.completions import completion_text, strip_special_tokens
from rl4rec_kernels.rewards.reward import RecReward, Scored

VARIABLE = "RL4REC_REWARD"


class RewardLost(BaseException):
    """A reward could not be computed.

    Not an `Exception`: some trainers catch these and continue without a reward.
    """

    @classmethod
    def by(cls, error: Exception) -> "RewardLost":
        """Return what to raise instead of an error that a trainer might catch."""
        return cls(f"{type(error).__name__}: {error}")


def reward_for(options: Mapping[str, object] | None) -> RecReward:
    """Return the reward with these options, or with those of ``RL4REC_REWARD`` if None.

    There is one `RecReward` per process and set of options, not one per sample.

    Raises
    ------
    ValueError, TypeError
        If ``RL4REC_REWARD`` is needed and not set, or is not a JSON object, or if an option of
        `RecReward` is invalid.
    """
    if options is not None:
        return _cached(json.dumps(dict(options), sort_keys=True, default=_plain))
    text = os.environ.get(VARIABLE)
    if not text:
        raise ValueError(
            f"{VARIABLE} is not set; set it to the options of RecReward as JSON, for example "
            '{"dataset_name": "beauty", "reward_type": "ndcg"}'
        )
    return _cached(text)


def _plain(value: Any) -> Any:
    """Turn an array, a tensor or a list of OmegaConf into a list."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


@lru_cache(maxsize=16)
def _cached(text: str) -> RecReward:
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{VARIABLE} is not JSON ({error}): {shown(text[:80])}") from None
    if not isinstance(options, dict):
        raise TypeError(f"{VARIABLE} must be a JSON object of options, got {shown(text[:80])}")
    try:
        reward = RecReward(**options)
    except TypeError as error:
        raise TypeError(f"options of the reward {options}: {error}") from None
    if reward.normalize:
        raise ValueError(
            "normalize=True scales the rewards of one call, but this trainer may send one text per "
            "call, whose reward would always be 0; leave it off, trainers normalize per group"
        )
    return reward


def score(
    reward: RecReward, texts: Sequence[object], labels: Sequence[object]
) -> list[dict[str, float]]:
    """Score texts, given the labels of their samples (see `read_label`).

    Returns one dict per text, always with the keys ``score``, ``rank`` and ``hit``.
    """
    return _values(reward, reward.score(*_arguments(texts, labels)))


async def score_async(
    reward: RecReward, texts: Sequence[object], labels: Sequence[object]
) -> list[dict[str, float]]:
    """As `score`, from a coroutine."""
    return _values(reward, await reward.score_async(*_arguments(texts, labels)))


def _arguments(texts: Sequence[object], labels: Sequence[object]) -> tuple[Any, ...]:
    """The arguments of `RecReward.score`."""
    plain = [strip_special_tokens(completion_text(text, i)) for i, text in enumerate(texts)]
    read = [read_label(label, f"labels[{i}]", raw_ids=True) for i, label in enumerate(labels)]
    return (plain, *([label[i] for label in read] for i in range(3)))


def read_columns(
    completions: object, target: object, history: object, neg_items: object
) -> tuple[list[int], tuple[Any, ...]]:
    """The rows of a batch that have a target, and their arguments for `RecReward.score`.

    Columns are lists, arrays, Series or columns of pyarrow and datasets; history and negatives may
    be None.
    """
    texts = _column("completions", completions, None)
    targets = _column("target", target, len(texts))
    rows = [row for row, item in enumerate(targets) if not is_missing_id(item)]

    def pick(name: str, column: Any) -> list[list[Id]] | None:
        if column is None:
            return None
        lists = _column(name, column, len(texts))
        return [raw_item_ids(f"{name}[{row}]", lists[row]) for row in rows]

    chosen = [raw_item_or_items(f"target[{row}]", targets[row]) for row in rows]
    negatives = pick("neg_items", neg_items)
    return rows, ([texts[row] for row in rows], chosen, pick("history", history), negatives)


def _column(name: str, column: Any, num_rows: int | None) -> list[Any]:
    """The rows of a column: a list, an array, a Series, …"""
    rows = as_list(column)
    if rows is None:
        raise TypeError(f"{name} must be a list of a value for each sample, got {shown(column)}")
    if num_rows is not None and len(rows) != num_rows:
        raise ValueError(f"{name} has {len(rows)} rows for {num_rows} completions")
    return rows


def _values(reward: RecReward, scored: Scored) -> list[dict[str, float]]:
    rows = zip(scored.rewards, *ranks_and_hits(reward, scored), strict=True)
    return [{"score": score, "rank": rank, "hit": hit} for score, rank, hit in rows]


def ranks_and_hits(reward: RecReward, scored: Scored) -> tuple[list[float], list[float]]:
    """Each target's rank, and whether it is among the first k (a fraction of 1 if it is tied).

    Of several targets of a sample, the mean rank, and whether one is among the first k.
    """
    names = ("rank", f"hit@{reward.k}")
    values = metrics_from_counts(scored.counts, names, reward.ties, offsets=scored.offsets)
    ranks, hits = values.T.tolist()
    return ranks, hits
