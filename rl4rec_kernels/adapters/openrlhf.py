"""OpenRLHF's reward function, which it loads from a file.

    # reward.py, for --reward.remote_url reward.py --data.input_key input --data.label_key label
    options = {"dataset_name": "beauty", "reward_type": "logrank"}
    reward_func = functools.partial(openrlhf.reward_func, reward_options=options)

or the path of this very file, and the options in ``RL4REC_REWARD``.

Follows `SingleTurnAgentExecutor` of OpenRLHF 0.11 (openrlhf/utils/agent.py): called in a thread
with lists of length 1; a query is the prompt and the response decoded together, special tokens
included. An `Exception` is logged there at level INFO and the sample goes on without a reward, so
failures are raised as `RewardLost`, which it does not catch: the run stops.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score
from rl4rec_kernels.data.labels import read_label

logger = logging.getLogger("rl4rec_kernels.adapters.openrlhf")

_TAIL = 64  # characters by which a prompt is found in a query that does not start with it


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any],
    *,
    reward_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Return the rewards of B samples.

    Parameters
    ----------
    queries, prompts : sequences of str
        The prompt with its response, and the prompt.
    labels : sequence of str
        What `write_label` writes, and `export_dataset` exports.
    reward_options : mapping, optional
        Options of `RecReward`; by default those in ``RL4REC_REWARD``.
    **kwargs
        Not used.

    Returns
    -------
    dict
        ``rewards`` and ``scores`` (by which groups are filtered), float32 [B], and ``extra_logs``.

    Raises
    ------
    RewardLost
        On any failure, whose message it has.
    """
    try:
        texts = [response(*pair) for pair in zip(queries, prompts, strict=True)]
        parsed = [read_label(label) for label in labels]
        values = score(reward_for(reward_options), texts, parsed)
    except Exception as error:
        logger.exception("no reward")
        raise RewardLost(f"{type(error).__name__}: {error}") from error
    columns = {name: torch.tensor([value[name] for value in values]) for name in values[0]}
    rewards = columns.pop("score")
    return {"rewards": rewards, "scores": rewards, "extra_logs": columns}


def response(query: str, prompt: str) -> str:
    """Return what follows the prompt in a query.

    The query may not start with the prompt, of which OpenRLHF cuts off the beginning where it is
    too long, and to which decoding may add a token or a blank. Its end is looked for then.

    Raises
    ------
    ValueError
        If the prompt's end is not in the query either.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    tail = prompt[-_TAIL:]
    place = query.find(tail) if tail else -1
    if place < 0:
        raise ValueError(
            f"the query does not contain the end of its prompt, {tail!r}; it starts "
            f"with {query[:60]!r}. Allow longer prompts (--data.max_len)"
        )
    return query[place + len(tail) :]
