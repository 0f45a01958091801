"""rLLM's evaluator.

    AgentTrainer(agent_flow=…, evaluator=RecEvaluator({"dataset_name": "beauty", …}), …)
    rllm train … --evaluator rl4rec_kernels.adapters.rllm:RecEvaluator

the latter with the options of the reward in ``RL4REC_REWARD``.

Columns: ``question``, ``ground_truth`` (the label), ``data_source``.

Follows `AgentFlowEngine._finish_episode` of rLLM 0.3.0.pre, commit 9beb6e0 (rllm/engine/
agentflow_engine.py), which calls the evaluator in a thread with one task, whose ``metadata`` is the
row of the data, and one episode. An `Exception` is retried twice; then it stops the run, or, if
``raise_on_error`` is off, as asynchronous training requires, the sample is dropped without a word
in the metrics. So failures are raised as `RewardLost`, which stops both.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from rl4rec_kernels.adapters._scoring import RewardLost, reward_for, score
from rl4rec_kernels.data.export import register_layout

_COLUMNS = {"question": "prompt", "ground_truth": "label", "data_source": "data_name"}
register_layout("rllm", _COLUMNS, conversational=(False,))


class RecEvaluator:
    """A `RecReward` as rLLM calls it.

    Parameters
    ----------
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.

    Raises
    ------
    ValueError, TypeError
        If an option is invalid.
    """

    def __init__(self, reward_options: Mapping[str, object] | None = None) -> None:
        self.reward = reward_for(reward_options)

    def evaluate(self, task: Any, episode: Any) -> Any:
        """Return the reward of an episode.

        Parameters
        ----------
        task : Task
            ``metadata["ground_truth"]`` is a label of `write_label`.
        episode : Episode
            Its answer is the artifact ``answer``, otherwise the output of the last trajectory or
            of its last step, otherwise the model's last response that is not empty.

        Returns
        -------
        namespace
            With the attributes of rLLM's ``EvalOutput``: the signals are ``rank`` and ``hit``, and
            it is correct if the target is among the first k.

        Raises
        ------
        RewardLost
            On any failure, with its message.
        """
        try:
            label = task.metadata.get("ground_truth")
            value = score(self.reward, [answer(episode)], [label])[0]
        except Exception as error:
            raise RewardLost.by(error) from error
        signals = [SimpleNamespace(name=name, value=value[name]) for name in ("rank", "hit")]
        return SimpleNamespace(
            reward=value["score"], is_correct=value["hit"] == 1, signals=signals, metadata={}
        )


def answer(episode: Any) -> str:
    """Return the text of an episode, as rLLM's own reward functions find it."""
    if "answer" in episode.artifacts:
        return str(episode.artifacts["answer"])
    if not episode.trajectories:
        raise ValueError("the episode has no trajectory, and no artifact answer")
    last = episode.trajectories[-1]
    outputs = [last.output, *(step.output for step in last.steps[-1:])]
    texts = [*outputs, *(step.model_response for step in reversed(last.steps))]
    return next((str(text) for text in texts if text), "")
