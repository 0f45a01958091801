"""ms-swift's plugins and its scores of completions."""

import json
from pathlib import Path
from typing import Any

import torch

ENDING = ".jsonl"


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float]:
    """The rewards of texts for the rows of a file, as ms-swift reads them."""
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import score_completions

    from rl4rec_kernels.adapters.ms_swift import RecORM

    class Reward(RecORM):
        pass

    Reward.options = {"dataset_name": file.stem, **options}
    orms["rl4rec"] = Reward
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for row, text in zip(rows, texts, strict=True):
        row["messages"].append({"role": "assistant", "content": text})
    samples = [GRPOSample.from_row(row) for row in rows]
    function = orms["rl4rec"](args=None)
    return score_completions(samples, [function], None, False, torch.device("cpu"))[:, 0].tolist()
