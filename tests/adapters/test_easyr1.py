"""EasyR1, commit b44b311: its own code where it can be imported, and a harness of the same steps.

git clone https://github.com/hiyouga/EasyR1 DIR
pip install --no-deps --target DIR codetiming pyvers tensordict
PYTHONPATH=DIR python -m pytest tests/adapters/test_easyr1.py
"""

import functools
import importlib.util
import json

import pytest
import torch

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import easyr1
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


class Data:
    """A DataProto of responses, padded on the right."""

    def __init__(self, texts: list[str], labels: list[str]) -> None:
        ids = [torch.tensor([ord(letter) for letter in text]) for text in texts]
        responses = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        self.batch = {"responses": responses, "response_mask": (responses > 0).long()}
        self.non_tensor_batch = {"ground_truth": labels}

    def __len__(self) -> int:
        return len(self.batch["responses"])


def harness(data: Data, **options) -> tuple[torch.Tensor, dict]:
    """verl/workers/reward/function.py, AutoRewardManager: the file, not the module."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", easyr1.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert getattr(module, "REWARD_TYPE", "batch") == "batch"
    function = functools.partial(module.compute_score, **options)
    lengths = data.batch["response_mask"].sum(-1).tolist()
    rows = zip(data.batch["responses"], lengths, data.non_tensor_batch["ground_truth"], strict=True)
    inputs = [
        {
            "response": Letters().decode(ids[:length], skip_special_tokens=True),
            "response_length": length,
            "ground_truth": label,
        }
        for ids, length, label in rows
    ]
    rewards, metrics = torch.zeros(data.batch["responses"].shape), {}
    for i, answer in enumerate(function(inputs)):
        rewards[i, lengths[i] - 1] = answer["overall"]
        for key, value in answer.items():
            metrics.setdefault(key, []).append(value)
    return rewards, metrics


def own(data: Data, **options) -> tuple[torch.Tensor, dict]:
    """The same by EasyR1 itself."""
    module = pytest.importorskip("verl.workers.reward.function")
    config = module.RewardConfig(
        reward_function=f"{easyr1.__file__}:compute_score", reward_function_kwargs=options
    )
    config.post_init()
    return module.AutoRewardManager(config, Letters()).compute_reward(data)


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["environment", "kwargs"])
def test_rewards_are_those_of_recreward(configured, expected, trainer, options):
    rewards, metrics = trainer(Data(TEXTS, LABELS), **options)
    last = torch.tensor([len(text) - 1 for text in TEXTS])
    assert rewards[torch.arange(4), last].tolist() == pytest.approx(expected)
    assert rewards.sum(-1).tolist() == pytest.approx(expected)
    assert metrics["overall"] == pytest.approx(expected)
    assert set(metrics) == {"overall", "rank", "hit"}
    assert all(1 <= rank <= 5 for rank in metrics["rank"])


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize(
    ("labels", "options", "error", "named"),
    [
        (['{"target":99}'], {}, IndexError, ("targets", 99)),
        (["4"], {"retrieval_service_name": "nobody"}, LookupError, ("nobody",)),
        (["x = 4"], {}, ValueError, ("label", "x = 4", "export_dataset")),
    ],
)
def test_a_failure_stops_the_run(reward, trainer, labels, options, error, named):
    with raises(error, *named):
        trainer(Data(["soap"], labels), **{**OPTIONS, **options})


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "easyr1", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        label = {name: sample[name] for name in ("target", "history", "neg_items")}
        assert row["prompt"] == sample["prompt"]
        assert json.loads(row["answer"]) == label
    with raises(ValueError, "conversational", "easyr1"):
        export_dataset(tiny, "easyr1", conversational=True)
