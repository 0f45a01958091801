"""verifiers 0.4.0: its own tasks where they can be imported, and a harness of the same steps."""

import asyncio
import importlib
import inspect
import json
from types import SimpleNamespace

import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import verifiers
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

PATH = "rl4rec_kernels.adapters.verifiers:reward"


class Trace:
    """verifiers/v1/trace.py, as far as scoring uses it."""

    def __init__(self, reply: str) -> None:
        self.last_reply, self.rewards, self.metrics = reply, {}, {}

    def record_metrics(self, values: dict) -> None:
        self.metrics |= values

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = float(value) * weight


async def harness(label: str, trace: Trace) -> None:
    """verifiers/v1/task.py, Task.score: arguments by name; any Exception fails the trace."""
    module, _, name = PATH.partition(":")
    function = getattr(importlib.import_module(module), name)
    available = {"task": SimpleNamespace(label=label), "trace": trace}
    names = [name for name in inspect.signature(function).parameters if name in available]
    (value,) = await asyncio.gather(function(**{name: available[name] for name in names}))
    trace.record_reward("rl4rec", value)


async def own(label: str, trace: Trace) -> None:
    """The same by verifiers' own task."""
    vf = pytest.importorskip("verifiers.v1", exc_type=ImportError)

    class Data(vf.TaskData):
        label: str | None

    config = vf.TaskConfig(rewards={"rl4rec": vf.RewardFunctionConfig(fn=PATH)})
    try:
        await vf.Task[Data](Data(prompt="?", label=label), config).score(trace)
    except vf.TaskError as error:
        raise error.__cause__ from error


@pytest.mark.parametrize("trainer", [harness, own])
def test_rewards_are_those_of_recreward(configured, expected, trainer):
    traces = [Trace(text) for text in TEXTS]

    async def run() -> None:
        await asyncio.gather(*map(trainer, LABELS, traces))

    asyncio.run(run())
    assert [trace.rewards["rl4rec"] for trace in traces] == pytest.approx(expected)
    for trace in traces:
        assert 1 <= trace.metrics["rank"] <= 5
        assert 0 <= trace.metrics["hit"] <= 1


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize(
    ("label", "error", "named"),
    [
        ('{"target":99}', IndexError, ("targets", 99)),
        (None, TypeError, ("label", "export_dataset")),
    ],
)
def test_a_failure_is_no_reward(configured, trainer, label, error, named):
    trace = Trace("soap")
    with raises(error, *named):
        asyncio.run(trainer(label, trace))
    assert not trace.rewards.get("rl4rec")


def test_options_in_a_task_of_your_own(reward, expected):
    task, trace = SimpleNamespace(label=LABELS[0]), Trace(TEXTS[0])
    value = asyncio.run(verifiers.reward(task, trace, reward_options=OPTIONS))
    assert value == pytest.approx(expected[0])


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "verifiers", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert row["prompt"] == sample["prompt"]
        label = json.loads(row["label"])
        assert label == {name: sample[name] for name in ("target", "history", "neg_items")}
