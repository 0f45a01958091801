"""GRPO with AReaL 1.0.4 on Amazon Beauty.

ray start --head
rl4rec serve beauty --address auto                       # the service that computes rewards
python examples/export_data.py beauty areal data/areal
RAY_ADDRESS=auto python examples/areal_grpo.py --config AREAL/examples/math/gsm8k_grpo.yaml \
    experiment_name=beauty actor.path=Qwen/Qwen3-0.6B scheduler.type=local gconfig.n_samples=8 \
    gconfig.max_new_tokens=256 actor.reward_scaling=1 actor.reward_bias=0 \
    train_dataset.path=data/areal/train.parquet valid_dataset.path=data/areal/valid.parquet

AREAL is a checkout of AReaL, whose configuration this changes; its number of GPUs is in
cluster.n_gpus_per_node, rollout.backend and actor.backend.
"""

import sys
from typing import Any

REWARD = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}
WORKFLOW = "rl4rec_kernels.adapters.areal.RecWorkflow"


def workflow_kwargs(config: Any, **gconfig: Any) -> dict[str, Any]:
    """What AReaL passes to the workflow."""
    return {
        "reward_options": REWARD,
        "gconfig": config.gconfig.new(**gconfig) if gconfig else config.gconfig,
        "tokenizer": config.tokenizer_path,
    }


def main(arguments: list[str]) -> None:
    from areal import PPOTrainer
    from areal.api.cli_args import GRPOConfig, load_expr_config
    from datasets import load_dataset

    config, _ = load_expr_config(arguments, GRPOConfig)
    files = {"train": config.train_dataset.path, "valid": config.valid_dataset.path}
    data = load_dataset("parquet", data_files=files)
    with PPOTrainer(config, train_dataset=data["train"], valid_dataset=data["valid"]) as trainer:
        trainer.train(
            workflow=WORKFLOW,
            workflow_kwargs=workflow_kwargs(config),
            eval_workflow=WORKFLOW,
            eval_workflow_kwargs=workflow_kwargs(config, temperature=0.6),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
