"""The scripts for trainers in examples/: what they say of this package is right."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl4rec_kernels import RecReward
from rl4rec_kernels.adapters import TRAINERS

yaml = pytest.importorskip("yaml")

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {
    "trl": "grpo_trl.py",
    "verifiers": "prime_rl_grpo.toml",
    "tinker_cookbook": "tinker_grpo.py",
}
TEXTS = {
    path.name: path.read_text("utf-8")
    for path in sorted(EXAMPLES.glob("*.*"))
    if any(path.name.startswith(part) for part in (*TRAINERS, "rec_tasks", "prime", "tinker"))
}


def test_each_trainer_has_an_example():
    for trainer in TRAINERS:
        names = [
            NAMES.get(trainer, f"{trainer}_grpo{ending}") for ending in (".sh", ".py", ".yaml")
        ]
        assert any((EXAMPLES / name).is_file() for name in names), trainer


@pytest.mark.parametrize("name", TEXTS)
def test_options_of_the_reward_and_names_of_the_package_are_right(name):
    text = TEXTS[name]
    for options in re.findall(r"\{[^{}]*reward_type[^{}]*\}", text):
        RecReward(**yaml.safe_load(options))
    for module, attribute in re.findall(r"(rl4rec_kernels[.\w]*\.adapters\.\w+)[.:](\w+)", text):
        # some classes are made when their trainer is there
        adapter = importlib.import_module(module)
        assert attribute in vars(adapter) or f'"{attribute}"' in Path(adapter.__file__).read_text()


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".sh")])
def test_shell_scripts_are_valid(name):
    subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)


def test_the_path_of_easyr1_and_openrlhf_is_a_file_that_can_be_imported():
    code = "import easyr1_reward, openrlhf_reward; print(easyr1_reward.compute_score.__name__)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    assert run.stdout == "compute_score\n"
