"""verl's custom reward function.

    reward.custom_reward_function.path=pkg://rl4rec_kernels.adapters.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.reward_type=logrank

Columns: ``data_source``, ``prompt``, ``ability``, ``reward_model`` (``ground_truth`` is the target)
and ``extra_info`` (``history``, ``neg_items``, ``user_id``, ``split``, ``index``), in Parquet.

Follows `NaiveRewardManager.run_single` of verl 0.9.1 (verl/experimental/reward_loop/reward_manager/
naive.py), which sends one sample per call from several processes; a coroutine function is awaited,
another function runs in a thread. All samples must return the same keys (reward_loop.py), whose
values become columns.
"""

from collections.abc import Mapping
from typing import Any

from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score, score_async
from rl4rec_kernels.data.export import Column, Constant, register_layout
from rl4rec_kernels.data.labels import read_label
from rl4rec_kernels.rewards.reward import RecReward

_EXTRA = {name: name for name in ("history", "neg_items", "user_id", "split", "index")}
_COLUMNS: dict[str, Column] = {
    "data_source": "data_name",
    "prompt": "prompt",
    "ability": Constant("recommendation"),
    "reward_model": {"style": Constant("rule"), "ground_truth": "target"},
    "extra_info": _EXTRA,
}
register_layout("verl", _COLUMNS, conversational=(True,), endings=(".parquet",))

_IGNORED = ("reward_router_address", "reward_model_tokenizer")


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, object] | None = None,
    **reward_kwargs: object,
) -> dict[str, float]:
    """Return the reward of one sample.

    Parameters
    ----------
    data_source : str
        The data set, unless `reward_kwargs` has ``dataset_name``.
    solution_str : str
        The response.
    ground_truth : int or str
        The target, or a whole label (`write_label`).
    extra_info : mapping
        ``history`` and ``neg_items``, as `export_dataset` writes them.
    **reward_kwargs
        Options of `RecReward`, from verl's configuration. verl's own ``reward_router_address`` and
        ``reward_model_tokenizer`` are ignored.

    Returns
    -------
    dict of str to float
        ``score``, ``rank``, ``hit``.

    Raises
    ------
    RewardLost
        On any failure, with its message: verl's ``rate_limited`` manager would turn an `Exception`
        into a reward of 0.
    """
    try:
        reward, label = _read(data_source, ground_truth, extra_info, reward_kwargs)
        return (await score_async(reward, [solution_str], [label]))[0]
    except Exception as error:
        raise RewardLost.by(error) from error


def compute_score_sync(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, object] | None = None,
    **reward_kwargs: object,
) -> dict[str, float]:
    """As `compute_score`, for the manager ``remote``, which cannot await.

    Raises
    ------
    ValueError, TypeError, IndexError, LookupError
        As in `RecReward`.
    """
    reward, label = _read(data_source, ground_truth, extra_info, reward_kwargs)
    return score(reward, [solution_str], [label])[0]


def _read(
    data_source: str,
    ground_truth: object,
    extra_info: Mapping[str, object] | None,
    options: Mapping[str, Any],
) -> tuple[RecReward, Any]:
    """The reward and the sample's label."""
    label = ground_truth
    if not (isinstance(ground_truth, str) and ground_truth.lstrip().startswith("{")):
        if extra_info is None or "history" not in extra_info:
            raise ValueError(
                "extra_info has no history; write the data with export_dataset(dataset, 'verl', …)"
            )
        # verl may have turned the number into a text
        is_text = isinstance(ground_truth, str)
        item = read_label(ground_truth, "ground_truth").target if is_text else ground_truth
        label = {**extra_info, "target": item}
    options = {name: value for name, value in options.items() if name not in _IGNORED}
    return reward_for({"dataset_name": data_source, **options}), label
