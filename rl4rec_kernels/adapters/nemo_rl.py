"""NeMo-RL's environment.

    ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.SYSTEM
    register_env("rl4rec", name)  # name = "rl4rec_kernels.adapters.nemo_rl.RecEnvironmentActor"

Columns: ``input``, ``output`` (the label).

Follows NeMo-RL 0.6: `EnvironmentInterface` (nemo_rl/environments/interfaces.py), and
`calculate_rewards` (nemo_rl/experience/rollouts.py), which calls ``step.remote`` with messages and
metadata and unpacks the answer by position.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.adapters._scoring import reward_for, score
from rl4rec_kernels.data.export import register_layout

register_layout("nemo_rl", {"input": "prompt", "output": "label"}, conversational=(False,))


class EnvironmentReturn(NamedTuple):
    """What a step returns: the fields of NeMo-RL's tuple of that name, in the same order."""

    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[None]
    rewards: Tensor
    terminateds: Tensor
    answers: list[str | None] | None


class RecEnvironment:
    """One turn: the assistant describes the next item and gets the reward.

    Parameters
    ----------
    config : mapping
        NeMo-RL's ``env.rl4rec``; its ``reward`` has the options of `RecReward`.

    Raises
    ------
    ValueError, TypeError
        If `config` has no ``reward``, or an option is invalid.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if "reward" not in config:
            raise ValueError(
                "the environment's config has no reward; set it to the options of RecReward: "
                "{reward: {dataset_name: …, reward_type: …}}"
            )
        self.reward = reward_for(dict(config["reward"]))

    def step(
        self, message_log_batch: Sequence[Sequence[Mapping[str, Any]]], metadata: Sequence[Any]
    ) -> EnvironmentReturn:
        """Reward a batch of conversations, all of which end with this turn.

        Parameters
        ----------
        message_log_batch : B lists of messages
            The assistant's last message is scored.
        metadata : B mappings
            ``ground_truth`` is a label of `write_label`.

        Returns
        -------
        EnvironmentReturn
            ``rewards`` float32 [B] on the CPU.
        """
        labels = [one.get("ground_truth") for one in metadata]
        values = score(self.reward, [list(log) for log in message_log_batch], labels)
        rewards = torch.tensor(
            [value["score"] for value in values], dtype=torch.float32, device="cpu"
        )
        observations = [
            {"role": "environment", "content": f"rank {value['rank']:g}"} for value in values
        ]
        return EnvironmentReturn(
            observations=observations,
            metadata=list(metadata),
            next_stop_strings=[None] * len(values),
            rewards=rewards,
            terminateds=torch.ones_like(rewards),
            answers=None,
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """Return the unchanged batch and its mean reward."""
        rewards = batch["rewards"]
        return batch, {"reward": rewards.float().mean().item()}

    def shutdown(self) -> None:
        """Do nothing: there is nothing to release."""


def __getattr__(name: str) -> Any:
    """Make the actor class when NeMo-RL asks for it, so that importing the module needs no Ray."""
    if name == "RecEnvironmentActor":
        ray = require("ray", "ray")
        return ray.remote(max_restarts=-1, max_task_retries=-1, max_concurrency=1000)(
            RecEnvironment
        )
    raise AttributeError(f"module {shown(__name__)} has no attribute {shown(name)}")
