"""The notebooks run from the first cell to the last."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rl4rec_kernels.service import local
from tests.tiny_model import tiny_chat_model

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"


@pytest.fixture
def names(beauty_dir, tmp_path, monkeypatch) -> Iterator[dict[str, Any]]:
    """The names of an empty notebook, in a temporary folder."""
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_registry", {})
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {}
    torch.set_num_threads(before)


def run(name: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of a notebook, which is committed without outputs."""
    notebook = json.loads((FOLDER / name).read_text("utf-8"))
    assert notebook["nbformat"] == 4
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    return names


def test_evaluation(names):
    pytest.importorskip("matplotlib")
    protocols = run("evaluation.ipynb", names)["result"].overall.protocols
    sampled, catalog = (protocols[name]["ndcg@10"].mean for name in ("sampled", "whole catalog"))
    assert 0.01 < catalog < sampled / 3  # the SVD finds something
    assert Path("evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_grpo(names, monkeypatch, capsys):
    pytest.importorskip("trl")
    torch.manual_seed(0)
    for part in tiny_chat_model():  # where the notebook's model would be downloaded
        part.save_pretrained(Path("Qwen/Qwen2.5-0.5B-Instruct"))
    ends = run("grpo.ipynb", names)
    good, bad = ends["reward"](generated_texts=ends["texts"], **ends["both"])
    assert bad < good
    assert len(ends["rewards"]) == 3
    assert all(0 <= reward <= 1 for reward in ends["rewards"])
