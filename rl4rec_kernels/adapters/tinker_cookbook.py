"""tinker-cookbook's environment.

    make = functools.partial(RecEnv, renderer, row["prompt"], row["label"])
    ProblemGroupBuilder(env_thunk=make, num_envs=group_size, dataset_name="beauty")

with the options of the reward in ``RL4REC_REWARD``, or in ``reward_options`` of `RecEnv`.

Columns: ``prompt``, ``label``.

Follows `Env.step` of tinker-cookbook 0.6.1 (tinker_cookbook/rl/types.py) and `ProblemEnv`
(tinker_cookbook/rl/problem_env.py): an environment is made for each sample, and its coroutine
``step`` gets the tokens of the response. The default strategy for errors stops the run; others
retry or drop a sample that raised an `Exception` (tinker_cookbook/rl/rollout_strategy.py). So
failures are raised as `RewardLost`, which stops all of them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score_async
from rl4rec_kernels.data.export import register_layout

_COLUMNS = {"prompt": "prompt", "label": "label"}
register_layout("tinker_cookbook", _COLUMNS, conversational=(True,))


class RecEpisode:
    """One turn: the assistant describes the next item and gets the reward.

    ``RecEnv`` of this module is this class as a subclass of tinker-cookbook's ``Env``. Both can be
    pickled if the renderer can.

    Parameters
    ----------
    renderer : Renderer
        Makes tokens of the prompt and messages of the response.
    prompt : sequence of message
        The prompt, as `export_dataset` writes it.
    label : str
        A label of `write_label`.
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.
    """

    def __init__(
        self,
        renderer: Any,
        prompt: Sequence[Mapping[str, Any]],
        label: str,
        reward_options: Mapping[str, object] | None = None,
    ) -> None:
        self.renderer = renderer
        self._prompt = [dict(message) for message in prompt]
        self._label = label
        self._options = reward_options

    async def initial_observation(self) -> tuple[Any, Any]:
        """Return the prompt's tokens, and where the response stops."""
        prompt = self.renderer.build_generation_prompt(self._prompt)
        return prompt, self.renderer.get_stop_sequences()

    async def step(self, action: Sequence[int], *, extra: Any = None) -> Any:
        """Return the reward of a response, which ends the episode, and log ``rank`` and ``hit``.

        Raises
        ------
        RewardLost
            On any failure, with its message.
        """
        message, _ = self.renderer.parse_response(action)
        try:
            reply = [{**message, "role": "assistant"}]
            values = await score_async(reward_for(self._options), [reply], [self._label])
        except Exception as error:
            raise RewardLost.by(error) from error
        reward = values[0].pop("score")
        return import_module("tinker_cookbook.rl.types").StepResult(
            reward=reward,
            episode_done=True,
            next_observation=import_module("tinker").ModelInput.empty(),
            next_stop_condition=self.renderer.get_stop_sequences(),
            metrics=values[0],
        )


@lru_cache(maxsize=1)
def _env_class() -> type:
    base = import_module("tinker_cookbook.rl.types").Env
    members = {"__module__": __name__, "__doc__": RecEpisode.__doc__}
    return type("RecEnv", (RecEpisode, base), members)


def __getattr__(name: str) -> Any:
    """Make the class on demand, so that importing the module needs no tinker-cookbook."""
    if name == "RecEnv":
        return _env_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
