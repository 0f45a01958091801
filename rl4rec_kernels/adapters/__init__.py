"""The reward as each trainer calls it: one module per trainer, which does not import the trainer.

A module also registers the trainer's columns for `export_dataset`. Functions that a trainer finds
by name take the options of `RecReward` from the environment variable ``RL4REC_REWARD``, a JSON
object such as ``{"dataset_name": "beauty", "reward_type": "logrank"}``.
"""

from importlib import import_module
from typing import NamedTuple


class Trainer(NamedTuple):
    """A row of the documentation's table of trainers, in Markdown.

    Attributes
    ----------
    title : str
        The trainer, and the version whose source the adapter follows.
    usage : str
        What to pass to the trainer.
    tested_with : str
        What calls the adapter in the tests.
    """

    title: str
    usage: str
    tested_with: str = "a harness of its calls"


_OWN_CODE = "its own code where it is installed, and a harness"
_IN_TRAINER = "its own code (`make test-trainers`), and a harness"

TRAINERS = {
    "trl": Trainer(
        "TRL 1.16",
        "`reward_funcs=TRLReward(RecReward(…))`, or `AsyncTRLReward`",
        "TRL's own GRPOTrainer",
    ),
    "verl": Trainer(
        "verl 0.9.1",
        "`reward.custom_reward_function.path=pkg://rl4rec_kernels.adapters.verl`",
        _IN_TRAINER,
    ),
    "openrlhf": Trainer(
        "OpenRLHF 0.11.2",
        "`--reward.remote_url` and a file such as `examples/openrlhf_reward.py`",
        _IN_TRAINER,
    ),
    "nemo_rl": Trainer(
        "NeMo-RL 0.7",
        "`rl4rec_kernels.adapters.nemo_rl.register()`, as `examples/nemo_rl_grpo.py` does",
        "a harness of its calls, on Ray",
    ),
    "slime": Trainer("slime 0.3.1", "`--custom-rm-path rl4rec_kernels.adapters.slime.custom_rm`"),
    "areal": Trainer(
        "AReaL 1.0.4",
        '`workflow="rl4rec_kernels.adapters.areal.RecWorkflow"`, or `reward_fn="….reward_fn"`',
        _IN_TRAINER,
    ),
    "ms_swift": Trainer(
        "ms-swift 4.6",
        '`--external_plugins` and a file with `orms["rl4rec"] = RecORM`',
        _IN_TRAINER,
    ),
    "easyr1": Trainer(
        "EasyR1 0.3.3",
        "`worker.reward.reward_function` with the path of `rl4rec_kernels/adapters/easyr1.py`",
        _OWN_CODE,
    ),
    "skyrl": Trainer(
        "SkyRL 0.4",
        "`environment.env_class=rl4rec`, registered as `rl4rec_kernels.adapters.skyrl:RecEnv`",
        _IN_TRAINER,
    ),
    "rllm": Trainer(
        "rLLM 0.3",
        "`evaluator=RecEvaluator()`, or `--evaluator rl4rec_kernels.adapters.rllm:RecEvaluator`",
        _OWN_CODE,
    ),
    "roll": Trainer(
        "ROLL 0.3", "`worker_cls: rl4rec_kernels.adapters.roll.RecRewardWorker`, under `rewards`"
    ),
    "verifiers": Trainer(
        "verifiers 0.4, prime-rl",
        "the reward `fn` of a task, `rl4rec_kernels.adapters.verifiers:reward`",
        _OWN_CODE,
    ),
    "tinker_cookbook": Trainer(
        "tinker-cookbook 0.6",
        "`ProblemGroupBuilder` with `rl4rec_kernels.adapters.tinker_cookbook.RecEnv`",
        _IN_TRAINER,
    ),
}
"""The adapters by module. Importing this package imports all of them."""

for _module in TRAINERS:
    import_module(f"{__name__}.{_module}")
