"""ROLL 0.3.0, by a harness of the steps that its code takes."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import roll
from tests.adapters.conftest import LABELS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises


class Worker:
    """roll/distributed/executor/worker.py, as far as a subclass sees it."""

    def __init__(self, worker_config) -> None:
        self.worker_config = worker_config


class DataProto(SimpleNamespace):
    """roll/distributed/scheduler/protocol.py, as far as a reward worker uses it."""

    @classmethod
    def from_dict(cls, tensors: dict, non_tensors=None, meta_info=None):
        sizes = {len(tensor) for tensor in tensors.values()}
        assert len(sizes) == 1
        return cls(batch=tensors, non_tensor_batch=non_tensors or {}, meta_info=meta_info or {})


class Letters:
    """A tokenizer whose tokens are letters, and 0 its padding."""

    def batch_decode(self, ids, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join(chr(i) for i in row if i) for row in ids.tolist()]


def register(dispatch_mode, clear_cache=True):
    """roll/distributed/scheduler/decorator.py: a flag on the method."""

    def decorate(function):
        function.mode = dispatch_mode
        return function

    return decorate


@pytest.fixture
def worker(configured, monkeypatch):
    """roll/distributed/executor/cluster.py: the class of a path, made with its configuration."""
    modules = {
        "roll.distributed.executor.worker": {"Worker": Worker},
        "roll.distributed.scheduler.decorator": {
            "register": register,
            "Dispatch": SimpleNamespace(ONE_TO_ALL="one_to_all", DP_MP_COMPUTE="dp_mp_compute"),
        },
        "roll.distributed.scheduler.protocol": {"DataProto": DataProto},
        "roll.models.model_providers": {"default_tokenizer_provider": lambda model_args: Letters()},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    roll._worker_class.cache_clear()
    made = roll.RecRewardWorker(worker_config=SimpleNamespace(model_args=None))
    made.initialize(pipeline_config=None)
    yield made
    roll._worker_class.cache_clear()


def batch(texts: list[str], labels: list[str]) -> DataProto:
    ids = [torch.tensor([ord(letter) for letter in text]) for text in texts]
    responses = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    truths = np.empty(len(labels), dtype=object)
    truths[:] = labels
    return DataProto(batch={"responses": responses}, non_tensor_batch={"ground_truth": truths})


def test_rewards_are_those_of_recreward(worker, expected):
    output = worker.compute_rewards(batch(TEXTS, LABELS))
    for name in ("response_level_rewards", "scores"):
        assert output.batch[name].dtype == torch.float32
        assert output.batch[name].tolist() == pytest.approx(expected)
    assert output.batch["token_level_rewards"].abs().sum() == 0
    assert output.batch["token_level_rewards"].shape[0] == 4
    metrics = output.meta_info["metrics"]
    assert 1 <= metrics["rank"] <= 5
    assert 0 <= metrics["hit"] <= 1
    alone = worker.compute_rewards(batch(TEXTS[1:2], LABELS[1:2]))
    assert alone.batch["scores"].tolist() == pytest.approx(expected[1:2])


@pytest.mark.parametrize(
    ("label", "error", "named"),
    [('{"target":99}', IndexError, ("targets", 99)), ("x", ValueError, ("label", "x"))],
)
def test_a_failure_stops_the_run(worker, label, error, named):
    with raises(error, *named):
        worker.compute_rewards(batch(["soap"], [label]))


def test_the_class_is_a_worker_with_dispatched_methods(worker):
    assert isinstance(worker, Worker)
    assert roll.RecRewardWorker is type(worker)
    assert worker.compute_rewards.mode == "dp_mp_compute"
    assert worker.initialize.mode == "one_to_all"
    with raises(AttributeError, "Nothing"):
        _ = roll.Nothing


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "roll", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert row["messages"] == [{"role": "user", "content": sample["prompt"]}]
        assert (row["domain"], row["tag"]) == ("rl4rec", "rl4rec")
        label = json.loads(row["ground_truth"])
        assert label == {name: sample[name] for name in ("target", "history", "neg_items")}
