"""Exports, as trainers read them back from files."""

import json

import numpy as np
import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.data import export, read_label, write_label
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

COLUMNS = {
    "trl": ["prompt", "history", "target", "user_id", "neg_items"],
    "verl": ["data_source", "prompt", "ability", "reward_model", "extra_info"],
    "openrlhf": ["input", "label", "datasource"],
    "nemo_rl": ["input", "output"],
    "slime": ["prompt", "label", "metadata"],
    "areal": ["history", "target", "user_id", "neg_items", "messages"],
    "ms_swift": ["history", "target", "user_id", "neg_items", "messages"],
    "easyr1": ["prompt", "answer"],
    "skyrl": ["prompt", "env_class", "data_source", "reward_spec"],
    "rllm": ["question", "ground_truth", "data_source"],
    "roll": ["messages", "ground_truth", "domain", "tag"],
    "verifiers": ["prompt", "label"],
    "tinker_cookbook": ["prompt", "label"],
}
PROMPTS = ("prompt", "input", "messages", "question")
LABELS = ("label", "output", "answer", "ground_truth")
TEXTS = {"trl", "nemo_rl", "easyr1", "rllm", "verifiers"}  # whose prompts are texts by default


@pytest.fixture
def tiny(tmp_path):
    return dataset(write_tiny(tmp_path), num_negs=2, num_items=10)


def read(path, tmp_path) -> list[dict]:
    datasets = pytest.importorskip("datasets")
    kind = "parquet" if path.suffix == ".parquet" else "json"
    rows = datasets.load_dataset(kind, data_files=str(path), cache_dir=str(tmp_path / "cache"))
    return list(rows["train"])


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("trainer", COLUMNS)
def test_files_contain_the_samples(tiny, tmp_path, trainer, ending):
    path = tmp_path / "out" / f"train{ending}"
    if trainer == "verl" and ending == ".jsonl":
        with raises(ValueError, "path", "train.jsonl", ".parquet", "verl"):
            export_dataset(tiny, trainer, path)
        assert not path.parent.exists()
        return
    returned = export_dataset(tiny, trainer, path)
    assert sorted(returned.column_names) == sorted(COLUMNS[trainer])
    rows = read(path, tmp_path)
    assert len(rows) == len(tiny) == 3
    for row, sample in zip(rows, tiny, strict=True):
        label = next((row[name] for name in LABELS if row.get(name)), None)
        label = label or row.get("reward_spec", {}).get("ground_truth")
        if trainer == "verl":
            got = {"target": row["reward_model"]["ground_truth"], **row["extra_info"]}
        else:
            got = read_label(label)._asdict() if label else row
        for name in ("target", "history", "neg_items"):
            assert got[name] == sample[name]
        prompt = next(row[name] for name in PROMPTS if row.get(name))
        chat = [{"role": "user", "content": sample["prompt"]}]
        assert prompt == (sample["prompt"] if trainer in TEXTS else chat)


def test_prompts_may_be_texts_or_messages(tiny, tmp_path):
    rows = export_dataset(tiny, "openrlhf", conversational=False)
    assert rows[0]["input"] == tiny[0]["prompt"]
    assert export_dataset(tiny, "trl", conversational=True)[0]["prompt"][0]["role"] == "user"
    for trainer, wrong in (("verl", False), ("nemo_rl", True)):
        with raises(ValueError, "conversational", not wrong, trainer):
            export_dataset(tiny, trainer, conversational=wrong)


def test_without_negatives_the_columns_keep_their_types(tiny, tmp_path):
    bare = dataset(tmp_path)
    for trainer in COLUMNS:
        got, full = export_dataset(bare, trainer), export_dataset(tiny, trainer)
        assert got.features == full.features
    assert read_label(export_dataset(bare, "slime")[0]["label"]).neg_items == []


def test_a_new_trainer_registers_its_columns(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_LAYOUTS", {})
    columns = {
        "question": "prompt",
        "task": export.Constant("recommend"),
        "info": {"answer": {"item": "target"}, "seen": "history"},
        "again": "prompt",
    }
    export.register_layout("mine", columns, conversational=(False,), endings=(".jsonl",))
    path = tmp_path / "train.jsonl"
    export_dataset(tiny, "mine", path)
    for row, sample in zip(read(path, tmp_path), tiny, strict=True):
        assert row == {
            "question": sample["prompt"],
            "task": "recommend",
            "info": {"answer": {"item": sample["target"]}, "seen": sample["history"]},
            "again": sample["prompt"],
        }
    with raises(ValueError, "path", ".jsonl", "mine"):
        export_dataset(tiny, "mine", tmp_path / "train.parquet")


def test_bad_arguments_are_named(tiny, tmp_path):
    with raises(ValueError, "trainer", "'ppo'", "trl, verl"):
        export_dataset(tiny, "ppo", tmp_path / "x.jsonl")
    with raises(ValueError, "path", "x.csv", ".parquet", ".jsonl", ".json", "trl"):
        export_dataset(tiny, "trl", tmp_path / "x.csv")
    assert not list(tmp_path.glob("x.*"))


def test_all_kinds_of_labels():
    want = (3, [1, 2], [5])
    assert read_label(write_label(np.int64(3), np.array([1, 2]), (5,))) == want
    assert (
        read_label({"target": np.int32(3), "history": np.array([1, 2]), "neg_items": [5]}) == want
    )
    assert read_label('{"target": 3, "history": null}') == (3, [], [])
    assert read_label("3") == read_label(np.int64(3)) == (3, [], [])
    assert json.loads(write_label(3)) == {"target": 3, "history": [], "neg_items": []}


@pytest.mark.parametrize(
    ("label", "error", "named"),
    [
        ("soap", ValueError, ("label", "'soap'", "JSON")),
        ("[3]", TypeError, ("label", "JSON text or a mapping", [3])),
        (True, TypeError, ("label", "JSON text or a mapping", True)),
        (None, TypeError, ("label", None)),
        ({"item": 3}, ValueError, ("label", "target", "item")),
        ({"target": "3"}, TypeError, ("target", "item id", "'3'")),
        ({"target": True}, TypeError, ("target", "item id", True)),
        ({"target": 3, "history": "12"}, TypeError, ("history", "list of item ids", "'12'")),
        ({"target": 3, "neg_items": [1.5]}, TypeError, ("neg_items", "item ids", 1.5)),
    ],
)
def test_bad_labels_are_named(label, error, named):
    with raises(error, *named):
        read_label(label)
