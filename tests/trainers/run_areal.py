"""AReaL's workflow, run by its executor."""

import functools
from pathlib import Path
from typing import Any

import datasets

ENDING = ".jsonl"


class Engine:
    """Generates the text of each row, as the workflow reads it from an inference engine."""

    def __init__(self, texts: dict[tuple[int, ...], str], tokenizer: Any) -> None:
        self.texts, self.tokenizer = texts, tokenizer

    def get_version(self) -> int:
        return 0

    async def agenerate(self, request: Any) -> Any:
        from areal.api.io_struct import ModelResponse

        text = self.texts[tuple(request.input_ids)] + self.tokenizer.eos_token
        tokens = self.tokenizer(text)["input_ids"]
        return ModelResponse(
            input_tokens=list(request.input_ids),
            output_tokens=tokens,
            output_logprobs=[0.0] * len(tokens),
            output_versions=[0] * len(tokens),
            tokenizer=self.tokenizer,
        )


def rewards(
    file: Path, texts: list[str], tokenizer: Any, options: dict[str, Any], mode: str
) -> list[float | None]:
    """The rewards of texts for the rows of a file; None where AReaL drops the sample."""
    from areal.api.cli_args import GenerationHyperparameters, InferenceEngineConfig
    from areal.infra.workflow_executor import WorkflowExecutor
    from areal.workflow.rlvr import RLVRWorkflow, default_get_input_ids_fn

    from rl4rec_kernels.adapters import areal

    rows = datasets.load_dataset("json", data_files=str(file), cache_dir=str(file.parent))["train"]
    rows = list(rows)
    prompts = [tuple(default_get_input_ids_fn(r["messages"], tokenizer, False)) for r in rows]
    engine = Engine(dict(zip(prompts, texts, strict=True)), tokenizer)
    options = {"dataset_name": file.stem, **options}
    common = {"gconfig": GenerationHyperparameters(max_new_tokens=64), "tokenizer": tokenizer}
    if mode == "workflow":
        workflow = areal.RecWorkflow(reward_options=options, **common)
    else:
        reward_fn = functools.partial(areal.reward_fn, reward_options=options)
        workflow = RLVRWorkflow(reward_fn, **common)
    config = InferenceEngineConfig(
        experiment_name="test", trial_name="test", consumer_batch_size=len(rows)
    )
    executor = WorkflowExecutor(config, engine)
    executor.initialize(train_data_parallel_size=1)
    try:
        tasks = [executor.submit(row, workflow) for row in rows]
        done = [executor.wait_for_task(task, timeout=60) for task in tasks]
    finally:
        executor.destroy()
    return [None if one is None else one["rewards"].item() for one in done]
