"""Tasks of verifiers 0.4.0 from the rows of a data set; prime_rl_grpo.toml trains on them.

The module must be importable, for example by PYTHONPATH=examples. RL4REC_TASKS is the file that
`export_data.py beauty verifiers data/verifiers --ending .jsonl` writes.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf


class RecData(vf.TaskData):
    label: str


class RecTask(vf.Task[RecData]):
    pass


class RecTaskset(vf.Taskset[RecTask]):
    def load(self) -> Iterator[RecTask]:
        file = Path(os.environ.get("RL4REC_TASKS", "data/verifiers/train.jsonl"))
        for line in file.read_text("utf-8").splitlines():
            yield RecTask(RecData(**json.loads(line)), self.config.task)


__all__ = ["RecTaskset"]
