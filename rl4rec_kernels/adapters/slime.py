"""slime's custom reward model.

    --custom-rm-path rl4rec_kernels.adapters.slime.custom_rm
    --input-key prompt --apply-chat-template --label-key label

and, to choose one of ``score``, ``rank`` and ``hit``, ``--reward-key score``, with which
``--eval-reward-key`` may choose another one for evaluation.

Columns: ``prompt``, ``label`` and ``metadata`` (``user_id``).

Follows `async_rm` and `batched_async_rm` of slime 0.3.1 (slime/rollout/rm_hub/__init__.py): a
coroutine function that gets the run's arguments and one sample, or all samples of a group.
"""

from typing import Any

from rl4rec_kernels.adapters._scoring import reward_for, score_async
from rl4rec_kernels.data.export import Column, register_layout

_COLUMNS: dict[str, Column] = {
    "prompt": "prompt",
    "label": "label",
    "metadata": {"user_id": "user_id"},
}
register_layout("slime", _COLUMNS)


async def custom_rm(args: Any, sample: Any, **kwargs: object) -> Any:
    """Return the reward of a sample, or a list of rewards for a list of samples.

    Parameters
    ----------
    args : object
        slime's arguments. ``args.rl4rec_reward``, which ``--custom-config-path FILE.yaml`` sets, is
        a mapping of options of `RecReward`. Default: those in ``RL4REC_REWARD``.
    sample : Sample, or list of Sample
        With ``response``, and a label of `write_label` in ``label``.
    **kwargs
        Not used.

    Returns
    -------
    float, dict or list of these
        A dict of ``score``, ``rank`` and ``hit`` if ``args.reward_key`` selects one of them.
    """
    reward = reward_for(getattr(args, "rl4rec_reward", None))
    if sample == []:
        return []
    samples = sample if isinstance(sample, list) else [sample]
    texts, labels = [one.response for one in samples], [one.label for one in samples]
    values: list[Any] = list(await score_async(reward, texts, labels))
    if not getattr(args, "reward_key", None):
        values = [value["score"] for value in values]
    return values if isinstance(sample, list) else values[0]
