"""ROLL's reward worker.

    rewards:
      rl4rec:
        worker_cls: rl4rec_kernels.adapters.roll.RecRewardWorker
        model_args: {model_name_or_path: ${reward_pretrain}}
        system_envs: {RL4REC_REWARD: '{"dataset_name": "beauty", "reward_type": "logrank"}'}
        tag_included: [rl4rec]
        world_size: 8

Columns: ``messages``, ``ground_truth`` (the label), ``domain``, ``tag``.

Follows `RewardScheduler` and `RolloutContext.compute_rewards` of ROLL 0.3.0, commit 8eb27cc (roll/
distributed/scheduler/reward_scheduler.py, generate_scheduler.py), and its workers (roll/pipeline/
rlvr/rewards): Ray actors, each of which computes the rewards of one request at a time. An error
stops the run. ROLL's workers return float16, in which close rewards become equal; this returns
float32.
"""

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

from rl4rec_kernels.adapters._scoring import reward_for, score
from rl4rec_kernels.data.export import Constant, register_layout

_NAME = Constant("rl4rec")
_COLUMNS = {"messages": "prompt", "ground_truth": "label", "domain": _NAME, "tag": _NAME}
register_layout("roll", _COLUMNS, conversational=(True,))


class RecRewards:
    """Computes the rewards of ROLL's batches.

    ``RecRewardWorker`` of this module is this class as a subclass of ROLL's ``Worker``.

    Parameters
    ----------
    worker_config : WorkerConfig
        Its ``model_args`` name the tokenizer of the responses.

    Raises
    ------
    ValueError, TypeError
        If ``RL4REC_REWARD`` is not set, or an option of `RecReward` in it is invalid.
    """

    def __init__(self, worker_config: Any) -> None:
        super().__init__(worker_config=worker_config)  # type: ignore[call-arg]
        providers = import_module("roll.models.model_providers")
        self.tokenizer = providers.default_tokenizer_provider(model_args=worker_config.model_args)
        self.reward = reward_for(None)

    def initialize(self, pipeline_config: Any) -> None:
        """Do nothing: all is ready."""

    def compute_rewards(self, data: Any) -> Any:
        """Return the rewards of a batch.

        Parameters
        ----------
        data : DataProto
            Token ids in ``responses`` [B, L], and labels of `write_label` in ``ground_truth``.

        Returns
        -------
        DataProto
            ``response_level_rewards`` and ``scores`` float32 [B], ``token_level_rewards`` zeros
            [B, L], and as metrics the means of ``rank`` and ``hit``.

        Raises
        ------
        ValueError, TypeError, IndexError, LookupError
            As in `RecReward`.
        """
        responses = data.batch["responses"]
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        values = score(self.reward, texts, list(data.non_tensor_batch["ground_truth"]))
        rewards = responses.new_tensor([value["score"] for value in values], dtype=torch.float32)
        tensors = {
            "token_level_rewards": torch.zeros_like(responses, dtype=rewards.dtype),
            "response_level_rewards": rewards,
            "scores": rewards.clone(),
        }
        means = {
            name: sum(value[name] for value in values) / len(values) for name in ("rank", "hit")
        }
        proto = import_module("roll.distributed.scheduler.protocol").DataProto
        return proto.from_dict(tensors=tensors, meta_info={"metrics": means})


@lru_cache(maxsize=1)
def _worker_class() -> type:
    worker = import_module("roll.distributed.executor.worker").Worker
    decorator = import_module("roll.distributed.scheduler.decorator")
    every, batch = decorator.Dispatch.ONE_TO_ALL, decorator.Dispatch.DP_MP_COMPUTE
    members = {
        "__module__": __name__,
        "__doc__": RecRewards.__doc__,
        "initialize": decorator.register(dispatch_mode=every)(RecRewards.initialize),
        "compute_rewards": decorator.register(dispatch_mode=batch, clear_cache=False)(
            RecRewards.compute_rewards
        ),
    }
    return type("RecRewardWorker", (RecRewards, worker), members)


def __getattr__(name: str) -> Any:
    """Make the class when ROLL asks for it, so that importing the module needs no ROLL."""
    if name == "RecRewardWorker":
        return _worker_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
