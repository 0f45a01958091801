"""The script for an instruction-tuned model: it trains, evaluates, and goes on after a stop."""

import importlib.util
import json
from pathlib import Path

import pytest

from rl4rec_kernels.service import local
from tests.data.cases import write
from tests.tiny_model import tiny_chat_model

pytest.importorskip("trl")

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_beauty.py"
WORDS = ["Red", "Blue", "Polish", "Cream", "Brush", "Oil"]


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    for part in tiny_chat_model():
        part.save_pretrained(folder)
    return folder


def test_it_trains_evaluates_and_resumes(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_registry", {})
    items = {
        str(i): {"title": f"{WORDS[i % 6]} {WORDS[(i * 5 + 2) % 6]} {i}"} for i in range(1, 31)
    }
    users = "".join(
        f"{u} " + " ".join(str(u + 3 * j) for j in range(6)) + "\n" for u in range(1, 9)
    )
    write(tmp_path, "beauty", sequential_data__txt=users, item_metadata__json=json.dumps(items))
    spec = importlib.util.spec_from_file_location("grpo_beauty", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    options = ["--model", model, "--data-dir", tmp_path, "--out", tmp_path / "out"]
    options += ["--num-negs", 5, "--prompts", 2, "--generations", 2, "--new-tokens", 4]
    options += ["--eval-users", 4, "--eval-steps", 1, "--learning-rate", 0.01]

    def run(*more: object) -> list[dict]:
        return example.main(list(map(str, [*options, *more]))).state.log_history

    first = run("--steps", 1)
    evaluated = [entry for entry in first if "eval_reward" in entry]
    assert [entry["step"] for entry in evaluated] == [0, 1]
    assert all(0 <= entry["eval_reward"] <= 1 for entry in evaluated)
    assert any("reward" in entry for entry in first)
    assert (tmp_path / "out" / "checkpoint-1").is_dir()

    resumed = run("--steps", 2, "--resume")
    assert [entry for entry in resumed if entry["step"] <= 1] == first[:-1]  # but the summary
    assert [entry["step"] for entry in resumed if "eval_reward" in entry] == [0, 1, 2]
    assert (tmp_path / "out" / "model.safetensors").is_file()
