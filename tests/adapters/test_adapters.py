"""What all adapters share: imports, columns, documentation and options."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rl4rec_kernels import adapters
from rl4rec_kernels.adapters import TRAINERS
from rl4rec_kernels.adapters._scoring import reward_for
from rl4rec_kernels.adapters.slime import custom_rm
from rl4rec_kernels.adapters.trl import AsyncTRLReward
from rl4rec_kernels.data import export
from tests.adapters.conftest import LABELS, OPTIONS
from tests.errors import raises

FOLDER = Path(adapters.__file__).parent
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "trainers.md"]

CHILD = """
import json, pickle, sys
from rl4rec_kernels.adapters import areal, nemo_rl, openrlhf, slime, verl
import rl4rec_kernels.adapters.trl
heavy = {"trl", "transformers", "ray", "datasets", "sentence_transformers"} & set(sys.modules)
import torch
reward = pickle.loads(bytes.fromhex(sys.argv[1]))
print(json.dumps([sorted(heavy), torch.cuda.is_initialized(), reward.__name__]))
"""


def call() -> float:
    """A call of an adapter that takes its options from ``RL4REC_REWARD``."""
    sample = types.SimpleNamespace(response="soap", label=LABELS[0])
    return asyncio.run(custom_rm(types.SimpleNamespace(), sample))


def run_child(code: str, *arguments: str):
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def test_importable_without_trainers_and_cuda(reward):
    """As a spawned process of TRL's asynchronous trainer or of AReaL's pool imports them."""
    function = pickle.dumps(AsyncTRLReward(reward))
    assert run_child(CHILD, function.hex()) == [[], False, "rec_logrank"]


def test_importing_the_package_registers_all_columns():
    code = """
import json, sys
import rl4rec_kernels
from rl4rec_kernels.data.export import _LAYOUTS
heavy = {"trl", "transformers", "ray", "datasets", "sentence_transformers"} & set(sys.modules)
print(json.dumps([sorted(heavy), list(_LAYOUTS)]))
"""
    assert run_child(code) == [[], list(TRAINERS)]


@pytest.mark.parametrize("module", TRAINERS)
def test_each_trainer_has_an_adapter_a_test_and_a_layout(module):
    assert (FOLDER / f"{module}.py").is_file()
    assert (Path(__file__).parent / f"test_{module}.py").is_file()
    assert module in export._LAYOUTS


def test_all_adapters_are_in_the_table():
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == {*TRAINERS, "http"}


@pytest.mark.skipif(not PAGES[0].is_file(), reason="needs the source tree")
@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=list(TRAINERS))
def test_the_documentation_has_a_row_for_each_trainer(trainer):
    row = f"| {' | '.join(trainer)} |"
    for page in PAGES:
        assert row in page.read_text("utf-8").splitlines(), f"{page.name} needs this row:\n{row}"


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("{", ValueError, ("RL4REC_REWARD", "{", "JSON")),
        ("[1]", TypeError, ("RL4REC_REWARD", "[1]", "JSON object")),
        ('{"metric": "ndcg"}', TypeError, ("metric", "ndcg")),
        ('{"normalize": true}', ValueError, ("normalize=True", "always be 0")),
    ],
)
def test_bad_options_are_named(monkeypatch, text, error, named):
    monkeypatch.setenv("RL4REC_REWARD", text)
    with raises(error, *named):
        call()


def test_options_pick_the_service():
    options = json.dumps({**OPTIONS, "retrieval_service_name": "nobody"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL4REC_REWARD", options)
        with raises(LookupError, "nobody"):
            call()


def test_there_is_one_reward_per_process_and_set_of_options(reward):
    assert reward_for(OPTIONS) is reward_for(dict(reversed(OPTIONS.items())))
    assert reward_for({**OPTIONS, "k": 4}) is not reward_for(OPTIONS)
