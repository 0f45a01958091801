"""ms-swift's reward function, for GRPO with and without Megatron and Ray.

    # plugin.py, for --external_plugins plugin.py --reward_funcs rl4rec
    from swift.rewards import orms
    from rl4rec_kernels.adapters.ms_swift import RecORM

    orms["rl4rec"] = RecORM

with the options of the reward in ``RL4REC_REWARD``, or in ``options`` of a subclass.

Columns: ``messages``, ``history``, ``target``, ``user_id``, ``neg_items``.

Follows `compute_rewards_per_func` of ms-swift 4.6 (swift/rl_core/grpo_algorithm.py): an object is
made with ``args``, and its coroutine function gets the completions and every column of the data as
keywords, in a new event loop for each batch. An error stops the run. None becomes NaN, and 0 if all
reward functions return it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels.adapters._scoring import read_columns, reward_for, score_async
from rl4rec_kernels.data.export import register_layout

_LABEL = ("target", "history", "neg_items")
_COLUMNS = {"messages": "prompt", **{name: name for name in (*_LABEL, "user_id")}}
register_layout("ms_swift", _COLUMNS, conversational=(True,))


class RecORM:
    """A `RecReward` as ms-swift calls it: an ``AsyncORM``, which need not be a subclass of it.

    Parameters
    ----------
    args : object, optional
        ms-swift's arguments, not used.
    **kwargs
        Not used.

    Raises
    ------
    ValueError, TypeError
        If an option of `RecReward` is invalid, when the run starts.
    """

    options: Mapping[str, object] | None = None
    """Options of `RecReward`. Default: those in ``RL4REC_REWARD``."""

    def __init__(self, args: Any = None, **kwargs: object) -> None:
        self.reward = reward_for(self.options)

    async def __call__(self, completions: Sequence[object], **columns: Any) -> list[float | None]:
        """Return the rewards of a batch; None for rows of other data, whose target is missing.

        Parameters
        ----------
        completions : B strings
            The last message of each conversation.
        **columns
            B rows of each column, of which ``target``, ``history`` and ``neg_items`` are used.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As in `RecReward`, and if the column ``target`` is missing.
        """
        if columns.get("target") is None:
            raise ValueError(
                "the data has no column target; write the data with "
                "export_dataset(dataset, 'ms_swift', …)"
            )
        rows, (texts, *ids) = read_columns(completions, *(columns.get(name) for name in _LABEL))
        used = [(name, column) for name, column in zip(_LABEL, ids, strict=True) if column]
        labels = [{name: column[i] for name, column in used} for i in range(len(rows))]
        values = await score_async(self.reward, texts, labels) if rows else []
        scores = {row: value["score"] for row, value in zip(rows, values, strict=True)}
        return [scores.get(row) for row in range(len(completions))]
