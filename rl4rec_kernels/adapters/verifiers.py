"""The reward function of verifiers' tasks, which prime-rl trains on.

    [orchestrator.train.source.env.taskset.task.rewards.rl4rec]
    fn = "rl4rec_kernels.adapters.verifiers:reward"

with the options of the reward in ``RL4REC_REWARD``, for tasks whose data has a field ``label``.

Columns: ``prompt``, ``label``.

Follows `Task.score` of verifiers 0.4.0 (verifiers/v1/task.py), which awaits the function with the
task's data and the trace, and prime-rl, commit 559b447. An `Exception` becomes an error of the
trace, which prime-rl does not train on (src/prime_rl/orchestrator/train_sink.py); batches without
any trace stop the run. Another exception would leave the environment's server without an answer.
"""

from collections.abc import Mapping
from typing import Any

from rl4rec_kernels.adapters._scoring import reward_for, score_async
from rl4rec_kernels.data.export import register_layout

_COLUMNS = {"prompt": "prompt", "label": "label"}
register_layout("verifiers", _COLUMNS, conversational=(False,))


async def reward(
    task: Any, trace: Any, *, reward_options: Mapping[str, object] | None = None
) -> float:
    """Return the reward of a trace, and record the metrics ``rank`` and ``hit`` in it.

    Parameters
    ----------
    task : TaskData
        Its ``label`` is a label of `write_label`.
    trace : Trace
        Its last reply is scored.
    reward_options : mapping, optional
        Options of `RecReward`. Default: those in ``RL4REC_REWARD``.

    Raises
    ------
    ValueError, TypeError, IndexError, LookupError
        As in `RecReward`.
    """
    label = getattr(task, "label", None)
    (value,) = await score_async(reward_for(reward_options), [trace.last_reply], [label])
    score = value.pop("score")
    trace.record_metrics(value)
    return score
