"""verl's custom reward function.

    reward.custom_reward_function.path=pkg://rl4rec_kernels.adapters.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.reward_type=logrank

Follows `NaiveRewardManager.run_single` of verl 0.10 (verl/experimental/reward_loop/reward_manager/
naive.py): one sample a call, from several processes, the coroutine function awaited and the other
one run in a thread. Every key of the answer must be in that of every sample (reward_loop.py), for
their values become columns.
"""

from collections.abc import Mapping
from typing import Any

from rl4rec_kernels.adapters._scoring import reward_by, score, score_async
from rl4rec_kernels.data.labels import Label, read_label
from rl4rec_kernels.rewards.reward import RecReward


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """Return the reward of one sample.

    Parameters
    ----------
    data_source : str
        The data set, unless `reward_kwargs` has ``dataset_name``.
    solution_str : str
        The response.
    ground_truth : int or str
        The target, or a label with everything (`write_label`).
    extra_info : mapping
        ``history`` and ``neg_items``, as `export_dataset` writes them.
    reward_router_address, reward_model_tokenizer
        verl's, not used.
    **reward_kwargs
        Options of `RecReward`, from verl's configuration.

    Returns
    -------
    dict of str to float
        ``score``, ``rank``, ``hit``.
    """
    reward, label = _read(data_source, ground_truth, extra_info, reward_kwargs)
    return (await score_async(reward, [solution_str], [label]))[0]


def compute_score_sync(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """As `compute_score`, for reward managers that cannot await."""
    reward, label = _read(data_source, ground_truth, extra_info, reward_kwargs)
    return score(reward, [solution_str], [label])[0]


def _read(
    data_source: str, ground_truth: Any, extra_info: Any, options: dict[str, Any]
) -> tuple[RecReward, Label]:
    if isinstance(ground_truth, str) and ground_truth.lstrip().startswith("{"):
        label = read_label(ground_truth)
    else:
        if extra_info is None or "history" not in extra_info:
            raise ValueError(
                "extra_info has no history; write the data with "
                "export_dataset(dataset, 'verl', path)"
            )
        # verl may have made a text of the number
        item = int(ground_truth) if str(ground_truth).isdecimal() else ground_truth
        label = read_label({**extra_info, "target": item})
    return reward_by({"dataset_name": data_source, **options}), label
