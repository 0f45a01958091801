"""GRPO with rLLM 0.3 on Amazon Beauty, with its verl backend.

ray start --head
rl4rec serve beauty --address auto                       # the service that computes rewards
RAY_ADDRESS=auto python examples/rllm_grpo.py rllm/backend=verl +model.name=Qwen/Qwen3-0.6B \
    actor_rollout_ref.model.path=Qwen/Qwen3-0.6B actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.mode=async actor_rollout_ref.rollout.n=8 \
    algorithm.adv_estimator=grpo data.train_batch_size=64 data.max_prompt_length=1024 \
    data.max_response_length=256 trainer.n_gpus_per_node=1
"""

from typing import Any

import rl4rec_kernels as rk
from rl4rec_kernels.adapters.rllm import RecEvaluator

REWARD = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}
NUM_NEGS = 99


class Flow:
    """One turn: the model answers the question of a row."""

    async def arun(self, task: Any, config: Any) -> Any:
        from openai import AsyncOpenAI
        from rllm.types import Episode, Step, Trajectory

        client = AsyncOpenAI(base_url=config.base_url, api_key="none")
        question = [{"role": "user", "content": task.metadata["question"]}]
        answer = await client.chat.completions.create(model=config.model, messages=question)
        text = answer.choices[0].message.content or ""
        return Episode(trajectories=[Trajectory(steps=[Step(model_response=text)])])


def rows(split: str) -> list[dict[str, Any]]:
    """The rows of a split in rLLM's columns."""
    items = rk.load_item_metadata(REWARD["dataset_name"])
    prompts = rk.PromptGenerator(items)
    samples = rk.RecommendationDataset(
        REWARD["dataset_name"], items, prompts, split, num_negs=NUM_NEGS, num_items=max(items) + 1
    )
    return list(rk.export_dataset(samples, "rllm"))


def main() -> None:
    import hydra
    from rllm.data.dataset import DatasetRegistry
    from rllm.trainer import AgentTrainer

    @hydra.main(config_path="pkg://rllm.trainer.config", config_name="unified", version_base=None)
    def train(config: Any) -> None:
        data = {
            split: DatasetRegistry.register_dataset("beauty", rows(split), split)
            for split in ("train", "valid")
        }
        AgentTrainer(
            backend=config.rllm.get("backend", "verl"),
            agent_flow=Flow(),
            evaluator=RecEvaluator(REWARD),
            config=config,
            train_dataset=data["train"],
            val_dataset=data["valid"],
        ).train()

    train()


if __name__ == "__main__":
    main()
