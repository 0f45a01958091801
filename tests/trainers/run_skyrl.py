"""skyrl-gym's environments, in the threads of SkyRL's generator."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ENDING = ".jsonl"


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float]:
    """The rewards of texts for the rows of a file."""
    import skyrl_gym
    from skyrl_gym.envs import deregister

    options = {"dataset_name": file.stem, **options}
    path = "rl4rec_kernels.adapters.skyrl:RecEnv"
    skyrl_gym.register("rl4rec", path, {"reward_options": options})
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]

    async def one(row: dict[str, Any], text: str, threads: ThreadPoolExecutor) -> float:
        env = skyrl_gym.make(row["env_class"], env_config={}, extras=row)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(threads, env.init, row["prompt"])
        return (await loop.run_in_executor(threads, env.step, text))["reward"]

    async def run() -> list[float]:
        with ThreadPoolExecutor(4) as threads:
            pairs = zip(rows, texts, strict=True)
            return await asyncio.gather(*(one(row, text, threads) for row, text in pairs))

    try:
        return asyncio.run(run())
    finally:
        deregister("rl4rec")
