"""NeMo-RL's environment.

    # before NeMo-RL makes its environments, as examples/nemo_rl_grpo.py does
    rl4rec_kernels.adapters.nemo_rl.register()

with the options of the reward in ``env.rl4rec.reward``, and ``data.default.env_name=rl4rec``.

Columns: ``input``, ``output`` (the label).

Follows NeMo-RL 0.7.0: `create_env` and `register_env` (nemo_rl/environments/utils.py),
`EnvironmentInterface` (nemo_rl/environments/interfaces.py), and `calculate_rewards` (nemo_rl/
experience/rollouts.py), which calls ``step.remote`` with messages and metadata and unpacks the
answer by position. In asynchronous GRPO its caller is a process of another virtual environment,
that of vLLM, which need not have this package: the class and all that it returns or raises can be
read there, because the class is pickled with its code and imports the package where it runs.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.data.export import register_layout

register_layout("nemo_rl", {"input": "prompt", "output": "label"}, conversational=(False,))


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
        from rl4rec_kernels.adapters._scoring import reward_for

        if "reward" not in config:
            raise ValueError(
                "the environment's config has no reward; set it to the options of RecReward: "
                "{reward: {dataset_name: …, reward_type: …}}"
            )
        self.reward = reward_for(dict(config["reward"]))

    def step(
        self, message_log_batch: Sequence[Sequence[Mapping[str, Any]]], metadata: Sequence[Any]
    ) -> tuple[list[dict[str, str]], list[Any], list[None], Tensor, Tensor, None]:
        """Reward a batch of conversations, all of which end with this turn.

        Parameters
        ----------
        message_log_batch : B lists of messages
            The assistant's last message is scored.
        metadata : B mappings
            ``ground_truth`` is a label of `write_label`.

        Returns
        -------
        tuple
            The fields of NeMo-RL's ``EnvironmentReturn``: observations, metadata, stop strings,
            ``rewards`` float32 [B] on the CPU, what has ended, and answers.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError, TimeoutError
            As in `RecReward`.
        RuntimeError
            For errors of other types, which the caller may be unable to import.
        """
        from rl4rec_kernels.adapters._scoring import score

        labels = [one.get("ground_truth") for one in metadata]
        try:
            values = score(self.reward, [list(log) for log in message_log_batch], labels)
        except Exception as error:
            if type(error).__module__ == "builtins":
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        rewards = torch.tensor(
            [value["score"] for value in values], dtype=torch.float32, device="cpu"
        )
        ranks = [f"rank {value['rank']:g}" for value in values]
        observations = [{"role": "environment", "content": rank} for rank in ranks]
        stops = [None] * len(values)
        return observations, list(metadata), stops, rewards, torch.ones_like(rewards), None

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """Return the unchanged batch and its mean reward."""
        rewards = batch["rewards"]
        return batch, {"reward": rewards.float().mean().item()}

    def shutdown(self) -> None:
        """Do nothing: there is nothing to release."""


def register(name: str = "rl4rec") -> None:
    """Register the environment in NeMo-RL.

    Parameters
    ----------
    name : str
        What the configuration calls it, in ``env`` and as ``env_name``.

    Raises
    ------
    ImportError
        If NeMo-RL is not installed.
    ValueError
        If NeMo-RL already has an environment of this name.
    """
    actor = f"{__name__}.RecEnvironmentActor"
    utils = import_module("nemo_rl.environments.utils")
    python = import_module("nemo_rl.distributed.virtual_cluster").PY_EXECUTABLES.SYSTEM
    registry = import_module("nemo_rl.distributed.ray_actor_environment_registry")
    utils.register_env(name, actor)
    registry.ACTOR_ENVIRONMENT_REGISTRY[actor] = python


def __getattr__(name: str) -> Any:
    """Make the actor class when NeMo-RL asks for it, so that importing the module needs no Ray."""
    if name == "RecEnvironmentActor":
        ray = require("ray", "ray")
        require("ray.cloudpickle", "ray").register_pickle_by_value(sys.modules[__name__])
        return ray.remote(max_restarts=-1, max_task_retries=-1, max_concurrency=1000)(
            RecEnvironment
        )
    raise AttributeError(f"module {shown(__name__)} has no attribute {shown(name)}")
