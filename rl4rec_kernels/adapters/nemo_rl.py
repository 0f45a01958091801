"""NeMo-RL's environment.

    ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.SYSTEM
    register_env("rl4rec", name)  # name = "rl4rec_kernels.adapters.nemo_rl.RecEnvironmentActor"

Follows NeMo-RL 0.6: `EnvironmentInterface` (nemo_rl/environments/interfaces.py), and
`calculate_rewards` (nemo_rl/experience/rollouts.py), which calls ``step.remote`` with messages and
metadata and takes the answer apart by position.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.adapters._scoring import reward_by, score
from rl4rec_kernels.data.labels import read_label


class EnvironmentReturn(NamedTuple):
    """What a step returns: the fields of NeMo-RL's tuple of that name, in its order."""

    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[None]
    rewards: Tensor
    terminateds: Tensor
    answers: list[str | None] | None


class RecEnvironment:
    """One turn: the assistant describes the next item and earns the reward.

    Parameters
    ----------
    config : mapping
        NeMo-RL's ``env.rl4rec``; its ``reward`` has the options of `RecReward`.

    Raises
    ------
    ValueError, TypeError
        If there are no such options, or they do not fit.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if "reward" not in config:
            raise ValueError(
                "the environment's config has no reward; give it the options of "
                "RecReward: {reward: {dataset_name: …, reward_type: …}}"
            )
        self.reward = reward_by(config["reward"])

    def step(
        self, message_log_batch: Sequence[Sequence[Mapping[str, Any]]], metadata: Sequence[Any]
    ) -> EnvironmentReturn:
        """Reward a batch of conversations; each ends with this turn.

        Parameters
        ----------
        message_log_batch : B lists of messages
            The last one by the assistant counts.
        metadata : B mappings
            ``ground_truth`` holds what `write_label` writes.

        Returns
        -------
        EnvironmentReturn
            ``rewards`` float32 [B] on the CPU.
        """
        labels = [read_label(one.get("ground_truth")) for one in metadata]
        values = score(self.reward, [list(log) for log in message_log_batch], labels)
        rewards = torch.tensor([value["score"] for value in values])
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
        """Return the batch as it is, and its mean reward."""
        rewards = batch["rewards"]
        return batch, {"reward": rewards.float().mean().item()}

    def shutdown(self) -> None:
        """Nothing is held."""


def __getattr__(name: str) -> Any:
    """Make the actor class when NeMo-RL asks for it: the module needs no Ray to be imported."""
    if name == "RecEnvironmentActor":
        ray = require("ray", "ray")
        return ray.remote(max_restarts=-1, max_task_retries=-1, max_concurrency=1000)(
            RecEnvironment
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
