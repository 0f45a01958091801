"""OpenRLHF's reward function, which it loads from a file.

    # reward.py, for --reward.remote_url reward.py --data.input_key input --data.label_key label
    options = {"dataset_name": "beauty", "reward_type": "logrank"}
    reward_func = functools.partial(openrlhf.reward_func, reward_options=options)

or the path of this file itself, with the options in ``RL4REC_REWARD``.

Columns: ``input``, ``label``, ``datasource``.

Follows `SingleTurnAgentExecutor` of OpenRLHF 0.11.2 (openrlhf/utils/agent.py), which calls the
function in a thread with lists of length 1. A query is the prompt and the response decoded
together, with special tokens. OpenRLHF logs an `Exception` at level INFO and continues without a
reward, so failures are raised as `RewardLost`, which it does not catch: the run stops.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score
from rl4rec_kernels.data.export import register_layout

register_layout("openrlhf", {"input": "prompt", "label": "label", "datasource": "data_name"})

logger = logging.getLogger("rl4rec_kernels.adapters.openrlhf")

_TAIL = 64  # characters of a prompt's end that are searched in a query that does not start with it


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[object],
    *,
    reward_options: Mapping[str, object] | None = None,
    **kwargs: object,
) -> dict[str, Any]:
    """Return the rewards of B samples.

    Parameters
    ----------
    queries, prompts : sequences of str
        The prompt with its response, and the prompt.
    labels : sequence of str
        Labels as `write_label` and `export_dataset` write them.
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.
    **kwargs
        Not used.

    Returns
    -------
    dict
        ``rewards`` and ``scores`` (used to filter groups), float32 [B], and ``extra_logs``.

    Raises
    ------
    RewardLost
        On any failure, with its message.
    """
    try:
        texts = [response(*pair) for pair in zip(queries, prompts, strict=True)]
        values = score(reward_for(reward_options), texts, labels)
    except Exception as error:
        logger.exception("no reward")
        raise RewardLost.by(error) from error
    columns = {
        name: torch.tensor([value[name] for value in values], dtype=torch.float32, device="cpu")
        for name in values[0]
    }
    rewards = columns.pop("score")
    return {"rewards": rewards, "scores": rewards, "extra_logs": columns}


def response(query: str, prompt: str) -> str:
    """Return what follows the prompt in a query.

    The query may not start with the prompt: OpenRLHF cuts off the beginning of a long one, and
    decoding may add a token or a space. The end of the prompt is searched then.

    Raises
    ------
    ValueError
        If the query does not contain the end of the prompt either.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    tail = prompt[-_TAIL:]
    start = query.find(tail) if tail else -1
    if start < 0:
        raise ValueError(
            f"the query does not contain the end of its prompt, {shown(tail)}; it starts with "
            f"{shown(query[:60])}. Allow longer prompts (--data.max_len)"
        )
    return query[start + len(tail) :]
