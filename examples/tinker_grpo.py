"""RL with tinker-cookbook 0.6.1 on Amazon Beauty; needs TINKER_API_KEY.

ray start --head
rl4rec serve beauty --address auto                       # the service that computes rewards
RAY_ADDRESS=auto python examples/tinker_grpo.py model_name=Qwen/Qwen3-8B log_path=/tmp/beauty
"""

import asyncio
import functools
import sys
from typing import Any

import chz
from tinker_cookbook import cli_utils, model_info, renderers
from tinker_cookbook.rl import train
from tinker_cookbook.rl.problem_env import ProblemGroupBuilder
from tinker_cookbook.rl.types import RLDataset, RLDatasetBuilder
from tinker_cookbook.tokenizer_utils import get_tokenizer

import rl4rec_kernels as rk
from rl4rec_kernels.adapters.tinker_cookbook import RecEnv

REWARD = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}
NUM_NEGS = 99
MODEL = "Qwen/Qwen3-8B"


class Rows(RLDataset):
    """Groups of episodes, one for each row of a split."""

    def __init__(self, split: str, renderer: Any, batch_size: int, group_size: int) -> None:
        items = rk.load_item_metadata(REWARD["dataset_name"])
        prompts = rk.PromptGenerator(items)
        samples = rk.RecommendationDataset(
            REWARD["dataset_name"],
            items,
            prompts,
            split,
            num_negs=NUM_NEGS,
            num_items=max(items) + 1,
        )
        self.rows = rk.export_dataset(samples, "tinker_cookbook")
        self.renderer, self.batch_size, self.group_size = renderer, batch_size, group_size

    def get_batch(self, index: int) -> list[ProblemGroupBuilder]:
        start = index * self.batch_size
        rows = self.rows.select(range(start, min(start + self.batch_size, len(self.rows))))
        return [
            ProblemGroupBuilder(
                env_thunk=functools.partial(
                    RecEnv, self.renderer, row["prompt"], row["label"], REWARD
                ),
                num_envs=self.group_size,
                dataset_name=REWARD["dataset_name"],
            )
            for row in rows
        ]

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size


@chz.chz
class RowsBuilder(RLDatasetBuilder):
    model_name: str
    renderer_name: str
    batch_size: int = 128
    group_size: int = 8

    async def __call__(self) -> tuple[Rows, Rows]:
        tokenizer = get_tokenizer(self.model_name)
        renderer = renderers.get_renderer(self.renderer_name, tokenizer)
        train_rows = Rows("train", renderer, self.batch_size, self.group_size)
        return train_rows, Rows("valid", renderer, self.batch_size, 1)


def config(arguments: list[str]) -> train.Config:
    """tinker-cookbook's configuration, changed by NAME=VALUE on the command line."""
    model = cli_utils.model_name_from_argv(arguments, default=MODEL)
    renderer = model_info.get_recommended_renderer_name(model)
    blueprint = chz.Blueprint(train.Config).apply(
        {
            "model_name": model,
            "recipe_name": "rl4rec",
            "renderer_name": renderer,
            "log_path": cli_utils.runs_path("rl4rec"),
            "dataset_builder": RowsBuilder(model_name=model, renderer_name=renderer),
            "learning_rate": 4e-5,
            "max_tokens": 256,
        }
    )
    return blueprint.make_from_argv(arguments)


if __name__ == "__main__":
    asyncio.run(train.main(config(sys.argv[1:])))
