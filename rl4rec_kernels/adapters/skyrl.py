"""SkyRL's environment.

    # in the entry point, which runs as a Ray task
    skyrl_gym.register(id="rl4rec", entry_point="rl4rec_kernels.adapters.skyrl:RecEnv")

with the options of the reward in ``RL4REC_REWARD``, or in ``kwargs={"reward_options": {…}}``, and
``environment.env_class=rl4rec``.

Columns: ``prompt``, ``env_class``, ``data_source``, ``reward_spec`` (its ``ground_truth`` is the
label).

Follows `BaseTextEnv` of skyrl-gym 0.4.0 (skyrl_gym/envs/base_text_env.py) and
`SkyRLGymGenerator.agent_loop` of SkyRL 0.4.0 (skyrl/train/generators/skyrl_gym_generator.py): an
environment is made for each sample, and its step runs in one of ``max_env_workers`` threads. An
`Exception` stops the run; in fully asynchronous training only an `Exception` does.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.adapters._scoring import reward_for, score
from rl4rec_kernels.data.export import Column, Constant, register_layout

_COLUMNS: dict[str, Column] = {
    "prompt": "prompt",
    "env_class": Constant("rl4rec"),
    "data_source": "data_name",
    "reward_spec": {"method": Constant("rule"), "ground_truth": "label"},
}
register_layout("skyrl", _COLUMNS, conversational=(True,))


class RecTextEnv:
    """One turn: the assistant describes the next item and gets the reward.

    ``RecEnv`` of this module is this class as a subclass of SkyRL's ``BaseTextEnv``.

    Parameters
    ----------
    env_config : object, optional
        Not used.
    extras : mapping
        The row of the data; ``reward_spec["ground_truth"]`` is a label of `write_label`.
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.

    Raises
    ------
    ValueError, TypeError
        If `extras` has no label, or an option is invalid.
    """

    def __init__(
        self,
        env_config: Any = None,
        extras: Mapping[str, Any] | None = None,
        reward_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        spec = (extras or {}).get("reward_spec") or {}
        if "ground_truth" not in spec:
            raise ValueError(
                "the row has no reward_spec with a ground_truth; write the data with "
                "export_dataset(dataset, 'skyrl', …)"
            )
        self.reward = reward_for(reward_options)
        self._label = spec["ground_truth"]
        self._metrics: dict[str, float] = {}

    def step(self, action: str) -> dict[str, Any]:
        """Return the reward of a response, which ends the episode.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As in `RecReward`.
        """
        self._metrics = score(self.reward, [action], [self._label])[0]
        reward = self._metrics.pop("score")
        return {"observations": [], "reward": reward, "done": True, "metadata": self._metrics}

    def get_metrics(self) -> dict[str, float]:
        """Return ``rank`` and ``hit``, which SkyRL averages and logs."""
        return dict(self._metrics)


@lru_cache(maxsize=1)
def _env_class() -> type:
    base = import_module("skyrl_gym.envs.base_text_env").BaseTextEnv
    return type(
        "RecEnv", (RecTextEnv, base), {"__module__": __name__, "__doc__": RecTextEnv.__doc__}
    )


def __getattr__(name: str) -> Any:
    """Make the class when SkyRL asks for it, so that importing the module needs no SkyRL."""
    if name == "RecEnv":
        return _env_class()
    raise AttributeError(f"module {shown(__name__)} has no attribute {shown(name)}")
