"""AReaL's reward function.

    RLVRWorkflow(reward_fn="rl4rec_kernels.adapters.areal.reward_fn", …)

with the options of the reward in ``RL4REC_REWARD``, or in a ``functools.partial`` of `reward_fn`.

Columns: ``messages``, ``history``, ``target``, ``user_id``, ``neg_items``.

Follows `AsyncRewardWrapper` of AReaL 2.0 (areal/api/reward_api.py) and `RLVRWorkflow`
(areal/workflow/rlvr.py): the function runs in a process pool and gets the dataset's columns as
keywords and the completion with its special tokens. After 15 s and some retries AReaL would set the
reward to 0 without an error. So a call gives up earlier, with an error that is not a
`TimeoutError`: AReaL raises it in the end.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import Any

from rl4rec_kernels.adapters._scoring import reward_for, score
from rl4rec_kernels.data.export import register_layout

_COLUMNS = {name: name for name in ("history", "target", "user_id", "neg_items")}
register_layout("areal", {**_COLUMNS, "messages": "prompt"}, conversational=(True,))

DEADLINE = 12.0
"""Seconds after which a call gives up: AReaL's 15, minus some for the process to start."""

_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="rl4rec-reward")


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Any,
    completion_ids: Any,
    *,
    target: Any = None,
    history: Any = None,
    neg_items: Any = None,
    reward_options: Mapping[str, Any] | None = None,
    **data: Any,
) -> float:
    """Return the reward of one completion.

    Parameters
    ----------
    prompt, completions : str
        The prompt and one completion.
    prompt_ids, completion_ids
        Not used.
    target, history, neg_items
        The dataset's columns, as `export_dataset` writes them.
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.
    **data
        Other columns, ignored.

    Raises
    ------
    RuntimeError
        If there is no answer after `DEADLINE` seconds.
    ValueError, TypeError, IndexError, LookupError
        As in `RecReward`.
    """
    label = {"target": target, "history": history, "neg_items": neg_items}
    call = _threads.submit(score, reward_for(reward_options), [completions], [label])
    try:
        return call.result(DEADLINE)[0]["score"]
    except TooLate:
        call.cancel()
        raise RuntimeError(
            f"no reward after {DEADLINE:.0f} s, which AReaL would turn into 0; check that the "
            "retrieval service is alive and not overloaded"
        ) from None
