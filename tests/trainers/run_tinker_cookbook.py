"""tinker-cookbook's rollouts of groups, with each of its strategies for errors."""

import asyncio
import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ENDING = ".jsonl"


class Renderer:
    """Tokens are those of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def build_generation_prompt(self, messages: list[dict[str, str]]) -> Any:
        return SimpleNamespace(length=1)

    def get_stop_sequences(self) -> list[str]:
        return ["</s>"]

    def parse_response(self, tokens: list[int]) -> tuple[dict[str, str], str]:
        return {"role": "assistant", "content": self.tokenizer.decode(tokens)}, "stop_sequence"


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float]:
    """The rewards of texts for the rows of a file."""
    from tinker_cookbook.completers import TokensWithLogprobs
    from tinker_cookbook.rl import rollout_strategy
    from tinker_cookbook.rl.problem_env import ProblemGroupBuilder
    from tinker_cookbook.rl.rollouts import do_group_rollout

    from rl4rec_kernels.adapters.tinker_cookbook import RecEnv

    options = {"dataset_name": file.stem, **options}
    strategy = getattr(rollout_strategy, mode)()

    async def one(row: dict[str, Any], text: str) -> float:
        async def policy(observation: Any, stop: Any, **_: Any) -> TokensWithLogprobs:
            tokens = tokenizer(text)["input_ids"]
            return TokensWithLogprobs(tokens=tokens, maybe_logprobs=[0.0] * len(tokens))

        make = functools.partial(RecEnv, Renderer(tokenizer), row["prompt"], row["label"], options)
        builder = ProblemGroupBuilder(env_thunk=make, num_envs=2)
        first, second = (await do_group_rollout(builder, policy, strategy)).get_total_rewards()
        assert first == second
        return first

    async def run() -> list[float]:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        return await asyncio.gather(*(one(*pair) for pair in zip(rows, texts, strict=True)))

    return asyncio.run(run())
