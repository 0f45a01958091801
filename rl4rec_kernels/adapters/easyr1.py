"""EasyR1's reward function, which it loads from a file.

    # reward.py, for worker.reward.reward_function=reward.py:compute_score
    from rl4rec_kernels.adapters.easyr1 import compute_score

    worker.reward.reward_function_kwargs='{dataset_name: beauty, reward_type: logrank}'
    data.prompt_key=prompt data.answer_key=answer

Columns: ``prompt``, ``answer`` (the label).

Follows `AutoRewardManager.compute_reward_batch` of EasyR1 0.3.3.dev0, commit b44b311 (verl/workers/
reward/function.py), which calls the function in a Ray actor with all samples of a batch; an error
stops the run. The keys of an answer are logged as ``reward/…``; ``overall`` is the reward. A sample
without an answer would keep the reward 0, so there is one for each or an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels.adapters._scoring import reward_for, score
from rl4rec_kernels.data.export import register_layout

register_layout("easyr1", {"prompt": "prompt", "answer": "label"}, conversational=(False,))

REWARD_NAME = "rl4rec"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]], **options: Any
) -> list[dict[str, float]]:
    """Return the rewards of a batch.

    Parameters
    ----------
    reward_inputs : B mappings
        ``response`` and ``ground_truth``, a label of `write_label`.
    **options
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.

    Returns
    -------
    list of dict
        B times ``overall``, ``rank`` and ``hit``.

    Raises
    ------
    ValueError, TypeError, IndexError, LookupError
        As in `RecReward`.
    """
    texts = [one["response"] for one in reward_inputs]
    labels = [one["ground_truth"] for one in reward_inputs]
    values = score(reward_for(options or None), texts, labels)
    return [{"overall": value.pop("score"), **value} for value in values]
