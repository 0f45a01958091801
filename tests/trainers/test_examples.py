"""The options of the scripts in examples/, read by the trainers' own parsers."""

import argparse
import ast
import importlib.util
import os
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
STUB = """#!/bin/sh
for argument in "$@"; do printf '%s\\n' "$argument"; done > "$ARGUMENTS"
"""


@pytest.fixture
def arguments(tmp_path):
    """What a script passes to the program that it calls."""

    def run(script: str) -> list[str]:
        for program in ("python3", "swift"):
            (tmp_path / program).write_text(STUB)
            (tmp_path / program).chmod(0o755)
        file = tmp_path / "arguments"
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        subprocess.run(
            ["bash", str(EXAMPLES / script)],
            env={"PATH": path, "ARGUMENTS": str(file), "GPUS": "2"},
            check=True,
        )
        return file.read_text().splitlines()

    return run


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(script).stem, EXAMPLES / script)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_header(script: str, command: str) -> list[str]:
    """The arguments of a command in the docstring of a script."""
    lines = ast.get_docstring(ast.parse((EXAMPLES / script).read_text())).replace("\\\n", " ")
    (line,) = (line for line in lines.splitlines() if command in line)
    return shlex.split(line.partition(command)[2])


def test_verl(arguments):
    import hydra

    module, *overrides = arguments("verl_grpo.sh")[1:]
    assert importlib.util.find_spec(module) is not None
    folder = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config"
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose("ppo_trainer", overrides)
    assert config.reward.custom_reward_function.path == "pkg://rl4rec_kernels.adapters.verl"
    assert config.reward.custom_reward_function.reward_kwargs == {"reward_type": "logrank", "k": 10}
    assert config.trainer.n_gpus_per_node == 2


def test_openrlhf(arguments):
    module, *options = arguments("openrlhf_grpo.sh")[1:]
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.If))
    parsed = [ast.unparse(node).startswith("args = parser.parse_args") for node in main.body]
    lines = main.body[: parsed.index(True)]  # without what imports vLLM and DeepSpeed
    names: dict[str, Any] = {"argparse": argparse, "datetime": datetime, "os": os}
    exec(compile(ast.Module(lines, []), module, "exec"), names)
    args = vars(names["parser"].parse_args(options))
    assert args["reward.remote_url"] == str(EXAMPLES / "openrlhf_reward.py")
    assert args["data.label_key"] == "label"
    assert args["vllm.num_engines"] == 2


def test_areal():
    from areal.api.cli_args import GRPOConfig
    from omegaconf import OmegaConf

    _, config, *overrides = in_header("areal_grpo.py", "examples/areal_grpo.py")
    assert config == "AREAL/examples/math/gsm8k_grpo.yaml"
    structured = OmegaConf.structured(GRPOConfig)  # raises for names that it does not have
    merged = OmegaConf.merge(structured, OmegaConf.from_dotlist(overrides))
    merged.tokenizer_path = merged.actor.path
    example = load("areal_grpo.py")
    gconfig = OmegaConf.to_object(merged.gconfig)
    config = SimpleNamespace(gconfig=gconfig, tokenizer_path=merged.tokenizer_path)
    evaluated = example.workflow_kwargs(config, temperature=0.6)["gconfig"]
    assert (evaluated.n_samples, evaluated.max_new_tokens, evaluated.temperature) == (8, 256, 0.6)


def test_ms_swift(arguments):
    from swift.arguments import RLHFArguments
    from swift.utils import utils
    from transformers import HfArgumentParser

    command, *options = arguments("ms_swift_grpo.sh")
    assert command == "rlhf"
    with utils._patch_get_type_hints():
        parser = HfArgumentParser([RLHFArguments])
    args = parser.parse_args(options)
    assert args.reward_funcs == ["rl4rec"]
    assert args.external_plugins == [str(EXAMPLES / "ms_swift_plugin.py")]
    from swift.rewards import orms

    utils.import_external_file(args.external_plugins[0])
    assert orms["rl4rec"].options["dataset_name"] == "beauty"


def test_tinker_cookbook():
    config = load("tinker_grpo.py").config(in_header("tinker_grpo.py", "tinker_grpo.py"))
    assert config.log_path == "/tmp/beauty"
    assert config.dataset_builder.model_name == config.model_name == "Qwen/Qwen3-8B"
