"""verl's data set and its reward managers."""

import asyncio
from pathlib import Path
from typing import Any

import torch

ENDING = ".parquet"


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float]:
    """The scores of texts for the rows of a file, from the reward manager `mode`."""
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    name = "compute_score_sync" if mode == "remote" else "compute_score"
    config = OmegaConf.create(
        {
            "trainer": {"experiment_name": "test"},
            "reward": {
                "num_workers": 1,
                "reward_manager": {"source": "register", "name": mode},
                "custom_reward_function": {
                    "path": "pkg://rl4rec_kernels.adapters.verl",
                    "name": name,
                    "reward_kwargs": options,
                },
            },
        }
    )
    data = RLHFDataset(str(file), tokenizer, OmegaConf.create({"cache_dir": str(file.parent)}))
    batch = DataProto.from_single_dict(collate_fn([data[i] for i in range(len(data))]))
    tokens = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    batch.batch["responses"] = tokens["input_ids"]
    batch.batch["prompts"] = torch.zeros(len(texts), 1, dtype=torch.long)
    ones = torch.ones(len(texts), 1, dtype=torch.long)
    batch.batch["attention_mask"] = torch.cat([ones, tokens["attention_mask"]], 1)

    async def run() -> list[dict[str, Any]]:
        manager = load_reward_manager(config, tokenizer)
        manager.loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(manager.run_single(batch[i : i + 1]) for i in range(len(texts)))
        )

    results = asyncio.run(run())
    assert all(set(one["reward_extra_info"]) == {"score", "rank", "hit"} for one in results)
    return [one["reward_score"] for one in results]
