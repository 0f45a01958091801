"""TRL's ``reward_funcs``, for GRPOTrainer, RLOOTrainer and the asynchronous GRPO trainer.

    reward = TRLReward(RecReward(dataset_name="beauty", reward_type="logrank"))
    GRPOTrainer(model, reward_funcs=reward, train_dataset=train.to_hf(), …)

Follows `GRPOTrainer._calculate_rewards` of trl 1.16 (trl/trainer/grpo_trainer.py): it gets
``prompts``, ``completions``, ``completion_ids`` and every column of the dataset as keywords,
beside ``trainer_state``, ``log_extra`` and ``log_metric``, and returns a list, None where it has no
say.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from rl4rec_kernels.adapters._scoring import ranks_and_hits
from rl4rec_kernels.rewards.reward import RecReward, Scored

LogMetric = Callable[[str, float], None]


class TRLReward:
    """A `RecReward` as TRL calls it, for plain and conversational completions.

    Logged by ``log_metric`` under the reward's name: the mean rank, the hit rate, and the share of
    groups without spread, from which GRPO learns nothing.

    Parameters
    ----------
    reward : RecReward
        The reward. It must find its service by name: the asynchronous trainer pickles it into
        another process, without CUDA.

    Raises
    ------
    TypeError
        If `reward` is no RecReward.
    """

    def __init__(self, reward: RecReward) -> None:
        if not isinstance(reward, RecReward):
            raise TypeError(f"reward must be a RecReward, got {reward!r}")
        self.reward = reward
        self.__name__ = reward.__name__  # TRL's logs and those of our metrics

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        target: Sequence[int | None] | None = None,
        history: Sequence[Any] | None = None,
        neg_items: Sequence[Any] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards of a batch; None for rows whose target is None.

        Parameters
        ----------
        prompts, completions : sequences of str, or of lists of messages
            B of each.
        target, history, neg_items : columns of `RecommendationDataset.to_hf`
            B of each; `neg_items` may be missing.
        log_metric : callable, optional
            TRL's.
        **columns
            Ignored.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As `RecReward`, and if there is no column ``target``.
        """
        rows, arguments = _arguments(completions, target, history, neg_items)
        scored = self.reward.score(*arguments) if rows else None
        return self._finish(prompts, rows, scored, log_metric)

    def _finish(
        self,
        prompts: Sequence[Any],
        rows: list[int],
        scored: Scored | None,
        log_metric: LogMetric | None,
    ) -> list[float | None]:
        rewards: list[float | None] = [None] * len(prompts)
        if scored is None:
            return rewards
        for row, reward in zip(rows, scored.rewards, strict=True):
            rewards[row] = reward
        if log_metric is not None:
            ranks, hits = ranks_and_hits(self.reward, scored)
            log_metric(f"{self.__name__}/mean_rank", sum(ranks) / len(ranks))
            log_metric(f"{self.__name__}/hit@{self.reward.k}", sum(hits) / len(hits))
            flat = share_without_spread([prompts[row] for row in rows], scored.rewards)
            if flat is not None:
                log_metric(f"{self.__name__}/groups_without_spread", flat)
        return rewards

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reward!r})"


class AsyncTRLReward(TRLReward):
    """As `TRLReward`, as a coroutine function: TRL awaits several rewards at once."""

    # `inspect.iscoroutinefunction`, by which TRL before 1.16 tells coroutine functions, looks at
    # these attributes of an object, not at its class.
    __defaults__ = None
    __kwdefaults__ = None

    async def __call__(  # type: ignore[override]
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        target: Sequence[int | None] | None = None,
        history: Sequence[Any] | None = None,
        neg_items: Sequence[Any] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards of a batch; see `TRLReward`."""
        rows, arguments = _arguments(completions, target, history, neg_items)
        scored = await self.reward.score_async(*arguments) if rows else None
        return self._finish(prompts, rows, scored, log_metric)

    __code__ = __call__.__code__


def share_without_spread(prompts: Sequence[Any], rewards: Sequence[float]) -> float | None:
    """The share of groups, which are consecutive equal prompts, whose rewards are all the same.

    Groups of one do not count; None if there are no others.
    """
    groups = [
        [reward for _, reward in group]
        for _, group in groupby(zip(prompts, rewards, strict=True), key=lambda pair: pair[0])
    ]
    groups = [group for group in groups if len(group) > 1]
    return sum(len(set(group)) == 1 for group in groups) / len(groups) if groups else None


def _arguments(
    completions: Sequence[Any], target: Any, history: Any, neg_items: Any
) -> tuple[list[int], tuple[Any, ...]]:
    """The rows that have a target, and their arguments for `RecReward.score`."""
    if target is None:
        raise ValueError(
            "the dataset has no column target; train on dataset.to_hf(), with "
            "remove_unused_columns=False"
        )
    for name, column in (("target", target), ("history", history), ("neg_items", neg_items)):
        if column is not None and len(column) != len(completions):
            raise ValueError(f"{name} has {len(column)} rows for {len(completions)} completions")
    rows = [row for row, item in enumerate(target) if item is not None]

    def pick(column: Any) -> list[Any] | None:
        return None if column is None else [() if column[r] is None else column[r] for r in rows]

    texts = [completions[row] for row in rows]
    return rows, (texts, [int(target[row]) for row in rows], pick(history), pick(neg_items))
