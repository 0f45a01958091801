"""TRL's ``reward_funcs``, for GRPOTrainer, RLOOTrainer and the asynchronous GRPO trainer.

    reward = TRLReward(RecReward(dataset_name="beauty", reward_type="logrank"))
    GRPOTrainer(model, reward_funcs=reward, train_dataset=train.to_hf(), …)

Columns: those of `RecommendationDataset.to_hf`.

Follows `GRPOTrainer._calculate_rewards` of trl 1.16 (trl/trainer/grpo_trainer.py). A reward
function gets ``prompts``, ``completions``, ``completion_ids`` and every column of the dataset as
keywords, and ``trainer_state``, ``log_extra`` and ``log_metric``. It returns a list with None for
samples that it does not apply to.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.adapters._scoring import ranks_and_hits, read_columns
from rl4rec_kernels.data.export import SAMPLE_COLUMNS, register_layout
from rl4rec_kernels.rewards.completions import completion_text, extract_query
from rl4rec_kernels.rewards.reward import RecReward, Scored

register_layout("trl", SAMPLE_COLUMNS, conversational=(False, True))

_FIRST_TO_AWAIT = (0, 27)  # the release of TRL whose trainers await reward functions


class TRLReward:
    """A `RecReward` as TRL calls it, for plain and conversational completions.

    Logs under the reward's name, in TRL's metrics: the mean rank, the hit rate, and the share of
    groups whose rewards are all equal, from which GRPO learns nothing; and in TRL's table of
    completions: the query, the target and its rank.

    Parameters
    ----------
    reward : RecReward
        The reward. It must find its service by name, because the asynchronous trainer pickles it
        into another process, which has no CUDA.

    Raises
    ------
    TypeError
        If `reward` is not a RecReward.
    """

    def __init__(self, reward: RecReward) -> None:
        if not isinstance(reward, RecReward):
            raise TypeError(f"reward must be a RecReward, got {shown(reward)}")
        self.reward = reward
        self.__name__ = reward.__name__  # the name in TRL's logs

    def __call__(
        self, prompts: Sequence[object], completions: Sequence[object], **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch; None for rows whose target is missing.

        Parameters
        ----------
        prompts, completions : sequences of str, or of lists of messages
            B of each.
        **columns
            B rows of each column of `RecommendationDataset.to_hf`, of which ``target``, ``history``
            and ``neg_items`` (may be missing) are used, and TRL's ``log_extra`` and ``log_metric``.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As in `RecReward`, and if the column ``target`` is missing.
        """
        rows, arguments = _arguments(completions, **columns)
        scored = self.reward.score(*arguments) if rows else None
        return self._finish(prompts, rows, arguments, scored, **columns)

    def _finish(
        self,
        prompts: Sequence[object],
        rows: list[int],
        arguments: tuple[Any, ...],
        scored: Scored | None,
        *,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: object,
    ) -> list[float | None]:
        """Log, and return a reward for each prompt; `scored` has those of `rows`."""
        rewards = scored.rewards if scored else []
        ranks, hits = ranks_and_hits(self.reward, scored) if scored else ([], [])

        def for_all(values: Iterable[Any]) -> list[Any]:
            found = dict(zip(rows, values, strict=True))
            return [found.get(row) for row in range(len(prompts))]

        if log_extra is not None:
            # Rows without a target too: TRL needs columns of one length. Under the reward's name:
            # TRL appends what two rewards log under one name.
            texts, targets = arguments[:2]
            queries = (extract_query(completion_text(text, i)) for i, text in enumerate(texts))
            log_extra(f"{self.__name__}/query", for_all(queries))
            log_extra(f"{self.__name__}/target", for_all(targets))
            log_extra(f"{self.__name__}/rank", for_all(ranks))
        if log_metric is not None and rows:
            log_metric(f"{self.__name__}/mean_rank", sum(ranks) / len(ranks))
            log_metric(f"{self.__name__}/hit@{self.reward.k}", sum(hits) / len(hits))
            flat = share_without_spread([prompts[row] for row in rows], rewards)
            if flat is not None:
                log_metric(f"{self.__name__}/groups_without_spread", flat)
        return for_all(rewards)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reward!r})"


class AsyncTRLReward(TRLReward):
    """As `TRLReward`, as a coroutine function: TRL awaits several rewards at once.

    Raises
    ------
    RuntimeError
        If the installed TRL is older than 0.27, which does not await reward functions. Unsloth and
        other projects pin such releases; `TRLReward` runs in them.
    """

    def __init__(self, reward: RecReward) -> None:
        super().__init__(reward)
        with suppress(PackageNotFoundError):
            installed = version("trl")
            if tuple(map(int, re.findall(r"\d+", installed)[:2])) < _FIRST_TO_AWAIT:
                raise RuntimeError(
                    f"AsyncTRLReward needs trl 0.27 or later, got trl {installed}, which does not "
                    "await reward functions; pass TRLReward"
                )

    # TRL before 1.16 calls `inspect.iscoroutinefunction`, which looks at these attributes of an
    # object, not at its class.
    __defaults__ = None
    __kwdefaults__ = None

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[object], completions: Sequence[object], **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch; see `TRLReward`."""
        rows, arguments = _arguments(completions, **columns)
        scored = await self.reward.score_async(*arguments) if rows else None
        return self._finish(prompts, rows, arguments, scored, **columns)

    __code__ = __call__.__code__


def share_without_spread(prompts: Sequence[object], rewards: Sequence[float]) -> float | None:
    """The share of groups (consecutive equal prompts) whose rewards are all equal.

    Groups of one do not count; None if there are no others.
    """
    pairs = groupby(zip(prompts, rewards, strict=True), key=lambda pair: pair[0])
    groups = [[reward for _, reward in group] for _, group in pairs]
    groups = [group for group in groups if len(group) > 1]
    return sum(len(set(group)) == 1 for group in groups) / len(groups) if groups else None


def _arguments(
    completions: Sequence[object],
    target: object = None,
    history: object = None,
    neg_items: object = None,
    **_: object,
) -> tuple[list[int], tuple[Any, ...]]:
    """The rows that have a target, and their arguments for `RecReward.score`."""
    if target is None:
        raise ValueError(
            "the dataset has no column target; train on dataset.to_hf(), with "
            "remove_unused_columns=False"
        )
    return read_columns(completions, target, history, neg_items)
