"""AReaL's workflow, or its reward function.

    trainer.train(workflow="rl4rec_kernels.adapters.areal.RecWorkflow", workflow_kwargs={…})

`RecWorkflow` is `RLVRWorkflow` without its ``reward_fn``: it awaits the reward in AReaL's own
process, so that calls of many episodes are batched, and none waits for a place in a process pool.
Or, with ``RLVRWorkflow`` itself, in a process pool:

    RLVRWorkflow(reward_fn="rl4rec_kernels.adapters.areal.reward_fn", …)

The options of the reward are in ``RL4REC_REWARD``, or in ``reward_options`` (of the
``workflow_kwargs``, or of a ``functools.partial`` of `reward_fn`).

Columns: ``messages``, ``history``, ``target``, ``user_id``, ``neg_items``.

Follows AReaL 1.0.4: `RLVRWorkflow` (areal/workflow/rlvr.py), and `AsyncRewardWrapper`
(areal/api/reward_api.py), which calls the function with the dataset's columns as keywords and the
completion with its special tokens. 15 s after a call is queued for its pool, and some retries, it
would set the reward to 0. If an episode ends in an `Exception`, AReaL logs it and goes on without
the sample. Failures are raised as `RewardLost`, which AReaL does not catch: the run stops.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.deadline import within
from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score, score_async
from rl4rec_kernels.data.export import register_layout

_LABEL = ("target", "history", "neg_items")
_COLUMNS = {name: name for name in (*_LABEL, "user_id")}
register_layout("areal", {**_COLUMNS, "messages": "prompt"}, conversational=(True,))

DEADLINE = 12.0
"""Seconds after which `reward_fn` gives up: AReaL's 15, minus some for the process to start."""


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: object,
    completion_ids: object,
    *,
    target: object = None,
    history: object = None,
    neg_items: object = None,
    reward_options: Mapping[str, object] | None = None,
    **data: object,
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
    RewardLost
        On any failure, with its message, and if there is no answer after `DEADLINE` seconds.
    """
    label = {"target": target, "history": history, "neg_items": neg_items}

    def compute() -> float:
        return score(reward_for(reward_options), [completions], [label])[0]["score"]

    try:
        return within(DEADLINE, compute)
    except TimeoutError:
        raise RewardLost(
            f"no reward after {DEADLINE:.0f} s, which AReaL would turn into 0; check that the "
            "retrieval service is alive and not overloaded, or use RecWorkflow, which waits longer"
        ) from None
    except Exception as error:
        raise RewardLost.by(error) from error


@cache
def _workflow() -> Any:
    """Make `RecWorkflow` when AReaL asks for it, so that importing the module needs no AReaL."""

    class RecWorkflow(import_module("areal.workflow.rlvr").RLVRWorkflow):  # type: ignore[misc]
        """`RLVRWorkflow`, whose rewards are awaited from the retrieval service.

        Parameters
        ----------
        reward_options : mapping, optional
            Options of `RecReward`. Default: those in ``RL4REC_REWARD``.
        **options
            Those of `RLVRWorkflow` but ``reward_fn``.
        """

        def __init__(
            self, *, reward_options: Mapping[str, object] | None = None, **options: Any
        ) -> None:
            self._reward = reward_for(reward_options)
            super().__init__(reward_fn=reward_fn, **options)

        async def _compute_rewards(
            self, resp: Any, prompt_str: str, task_data: Mapping[str, Any]
        ) -> float:
            completion = self.tokenizer.decode(resp.output_tokens)
            label = {name: task_data.get(name) for name in _LABEL}
            try:
                return (await score_async(self._reward, [completion], [label]))[0]["score"]
            except Exception as error:
                raise RewardLost.by(error) from error

    RecWorkflow.__qualname__ = "RecWorkflow"
    return RecWorkflow


def __getattr__(name: str) -> Any:
    if name == "RecWorkflow":
        return _workflow()
    raise AttributeError(f"module {shown(__name__)} has no attribute {shown(name)}")
