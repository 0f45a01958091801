"""OpenRLHF's data set and its executor of single turns."""

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets

ENDING = ".jsonl"


class Engine:
    """Generates a given text, as the executor reads it from vLLM."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    async def generate(self, prompt_ids: list[int], params: Any, **_: Any) -> Any:
        output = SimpleNamespace(token_ids=self.tokens, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float | None]:
    """The rewards of texts for the rows of a file; None where there is none."""
    from openrlhf.datasets.prompts_dataset import PromptDataset
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    from rl4rec_kernels.adapters import openrlhf

    data = SimpleNamespace(input_key="input", label_key="label", apply_chat_template=True)
    strategy = SimpleNamespace(args=SimpleNamespace(data=data), is_rank_0=lambda: False)
    rows = datasets.load_dataset("json", data_files=str(file), cache_dir=str(file.parent))["train"]
    prompts = PromptDataset(rows, tokenizer, strategy)
    params = SimpleNamespace(max_tokens=64, logprobs=None)
    executor = SingleTurnAgentExecutor(openrlhf.__file__)

    async def one(row: int) -> dict[str, Any]:
        _, prompt, label, _ = prompts[row]
        engine = Engine(tokenizer(texts[row] + tokenizer.eos_token)["input_ids"])
        return await executor.execute(prompt, label, params, 4096, tokenizer, engine)

    async def run() -> list[dict[str, Any]]:
        return await asyncio.gather(*(one(row) for row in range(len(texts))))

    os.environ["RL4REC_REWARD"] = json.dumps({"dataset_name": file.stem, **options})
    try:
        outputs = asyncio.run(run())
    finally:
        del os.environ["RL4REC_REWARD"]
    return [None if one["reward"] is None else one["reward"].item() for one in outputs]
