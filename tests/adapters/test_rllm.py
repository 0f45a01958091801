"""rLLM, commit 9beb6e0: its own engine where it can be imported, and a harness of the same steps.

git clone https://github.com/rllm-org/rllm DIR
pip install --no-deps --target DIR rllm-model-gateway omegaconf antlr4-python3-runtime==4.9.3
PYTHONPATH=DIR python -m pytest tests/adapters/test_rllm.py
"""

import asyncio
import json
from types import SimpleNamespace

import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters._scoring import RewardLost
from rl4rec_kernels.adapters.rllm import RecEvaluator, answer
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises


class Gateway:
    """A gateway that has no traces."""

    def get_session_url(self, uid: str, public: bool) -> str:
        return "http://127.0.0.1"

    async def aget_traces(self, uid: str) -> list:
        return []

    async def adelete_session(self, uid: str) -> None:
        pass

    async def adelete_sessions(self, uids: list[str]) -> None:
        pass


def episode_of(text: str, make=SimpleNamespace):
    """An episode of one step with this response."""
    step = make(output=None, model_response=text)
    return SimpleNamespace(
        artifacts={}, trajectories=[SimpleNamespace(output=None, steps=[step], reward=None)]
    )


def harness(evaluator, rows: list[dict], raise_on_error: bool) -> list:
    """rllm/engine/agentflow_engine.py, process_task_with_retry: an Exception may be dropped."""

    async def run(row: dict):
        task, episode = SimpleNamespace(metadata=row), episode_of(row["text"])
        for attempt in range(3):
            try:
                loop = asyncio.get_running_loop()
                output = await loop.run_in_executor(None, evaluator.evaluate, task, episode)
            except Exception:
                if attempt == 2 and raise_on_error:
                    raise
            else:
                logged = {signal.name: signal.value for signal in output.signals}
                return output.reward, output.is_correct, {**output.metadata, **logged}
        return None

    async def run_all() -> list:
        return await asyncio.gather(*map(run, rows))

    return asyncio.run(run_all())


def own(evaluator, rows: list[dict], raise_on_error: bool) -> list:
    """The same by rLLM's engine."""
    engine = pytest.importorskip("rllm.engine.agentflow_engine")
    types = pytest.importorskip("rllm.types")

    class Flow:
        async def arun(self, task, config):
            step = types.Step(model_response=task.metadata["text"])
            return types.Episode(trajectories=[types.Trajectory(steps=[step])])

    async def run() -> list:
        runner = engine.AgentFlowEngine(
            Flow(), evaluator, Gateway(), "m", raise_on_error=raise_on_error
        )
        try:
            return await runner.execute_tasks(rows)
        finally:
            runner.shutdown()

    return [
        (episode.trajectories[0].reward, episode.is_correct, episode.metrics)
        for episode in asyncio.run(run())
    ]


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize("options", [None, OPTIONS], ids=["environment", "argument"])
def test_rewards_are_those_of_recreward(configured, expected, trainer, options):
    rows = [
        {"ground_truth": label, "text": text} for label, text in zip(LABELS, TEXTS, strict=True)
    ]
    results = trainer(RecEvaluator(options), rows, raise_on_error=True)
    assert [reward for reward, _, _ in results] == pytest.approx(expected)
    for _, correct, logged in results:
        assert 1 <= logged["rank"] <= 5
        assert correct == (logged["rank"] <= 3) == (logged["hit"] == 1)


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize("raise_on_error", [True, False])
@pytest.mark.parametrize(
    ("label", "named"), [('{"target":99}', ("targets", 99)), (None, ("label", "export_dataset"))]
)
def test_a_failure_stops_the_run(configured, trainer, raise_on_error, label, named):
    rows = [{"ground_truth": label, "text": "soap"}]
    with raises(RewardLost, *named):
        trainer(RecEvaluator(), rows, raise_on_error)


def test_rllm_makes_the_evaluator_of_a_path(configured, expected):
    loader = pytest.importorskip("rllm.eval.evaluator_loader")
    evaluator = loader.load_evaluator("rl4rec_kernels.adapters.rllm:RecEvaluator")
    rows = [{"ground_truth": LABELS[0], "text": TEXTS[0]}]
    assert own(evaluator, rows, True)[0][0] == pytest.approx(expected[0])


def test_the_answer_is_where_rllm_looks_for_it():
    episode = episode_of("soap")
    assert answer(episode) == "soap"
    episode.trajectories[0].steps.append(SimpleNamespace(output=None, model_response=""))
    assert answer(episode) == "soap"
    episode.trajectories[0].steps[-1].output = "brush"
    assert answer(episode) == "brush"
    episode.artifacts["answer"] = "comb"
    assert answer(episode) == "comb"
    assert answer(episode_of("")) == ""
    with raises(ValueError, "trajectory", "answer"):
        answer(SimpleNamespace(artifacts={}, trajectories=[]))


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "rllm", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert (row["question"], row["data_source"]) == (sample["prompt"], tiny.data_name)
        label = json.loads(row["ground_truth"])
        assert label == {name: sample[name] for name in ("target", "history", "neg_items")}
