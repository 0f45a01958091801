"""SkyRL 0.4.0: skyrl-gym itself where it can be imported, and a harness of the same steps.

pip install --no-deps --target DIR skyrl-gym==0.4.0
PYTHONPATH=DIR python -m pytest tests/adapters/test_skyrl.py
"""

import asyncio
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import skyrl
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

PATH = "rl4rec_kernels.adapters.skyrl:RecEnv"


class BaseTextEnv:
    """skyrl_gym/envs/base_text_env.py, as far as a subclass sees it."""

    def __init__(self) -> None:
        self.turns, self.max_turns = 0, 1

    def init(self, prompt: list) -> tuple[list, dict]:
        return prompt, {}

    def close(self) -> None:
        pass


@pytest.fixture(params=["harness", "own"])
def make(request, monkeypatch):
    """``skyrl_gym.make``."""
    skyrl._env_class.cache_clear()
    if request.param == "harness":
        module = ModuleType("skyrl_gym.envs.base_text_env")
        module.BaseTextEnv = BaseTextEnv
        monkeypatch.setitem(sys.modules, module.__name__, module)

        def make(kwargs: dict, **more):
            name, _, attribute = PATH.partition(":")
            return getattr(importlib.import_module(name), attribute)(**kwargs, **more)

        yield make
    else:
        gym = pytest.importorskip("skyrl_gym")

        def make(kwargs: dict, **more):
            gym.register("rl4rec", PATH, kwargs)
            try:
                return gym.make("rl4rec", **more)
            finally:
                importlib.import_module("skyrl_gym.envs").deregister("rl4rec")

        yield make
    skyrl._env_class.cache_clear()


async def agent_loop(make, kwargs: dict, extras: dict, text: str, threads) -> tuple[float, dict]:
    """skyrl/train/generators/skyrl_gym_generator.py, agent_loop."""
    loop = asyncio.get_running_loop()
    env = make(kwargs, env_config={}, extras={**extras, "max_turns": 1})
    await loop.run_in_executor(threads, env.init, [{"role": "user", "content": "?"}])
    output = await loop.run_in_executor(threads, env.step, text)
    assert output["done"]
    assert output["observations"] == []
    metrics = env.get_metrics()
    await loop.run_in_executor(threads, env.close)
    return output["reward"], metrics


def generate(make, kwargs: dict, labels: list, texts: list[str]) -> list[tuple[float, dict]]:
    async def run() -> list:
        rows = [{"reward_spec": {"method": "rule", "ground_truth": label}} for label in labels]
        with ThreadPoolExecutor(4) as threads:
            pairs = zip(rows, texts, strict=True)
            calls = (agent_loop(make, kwargs, row, text, threads) for row, text in pairs)
            return await asyncio.gather(*calls)

    return asyncio.run(run())


@pytest.mark.parametrize("kwargs", [{}, {"reward_options": OPTIONS}], ids=["environment", "kwargs"])
def test_rewards_are_those_of_recreward(configured, expected, make, kwargs):
    results = generate(make, kwargs, LABELS, [f"{text}<|im_end|>" for text in TEXTS])
    assert [reward for reward, _ in results] == pytest.approx(expected)
    assert all(set(metrics) == {"rank", "hit"} for _, metrics in results)
    assert all(1 <= metrics["rank"] <= 5 for _, metrics in results)


@pytest.mark.parametrize(
    ("label", "error", "named"),
    [('{"target":99}', IndexError, ("targets", 99)), ("x", ValueError, ("label", "x"))],
)
def test_a_failure_stops_the_run(configured, make, label, error, named):
    with raises(error, *named):
        generate(make, {}, [label], ["soap"])


def test_a_row_needs_a_label(configured, make):
    with raises(ValueError, "reward_spec", "ground_truth", "export_dataset"):
        make({}, env_config={}, extras={"data_source": "toys"})


def test_the_class_is_made_on_demand(make):
    base = importlib.import_module("skyrl_gym.envs.base_text_env").BaseTextEnv
    assert issubclass(skyrl.RecEnv, base)
    assert skyrl.RecEnv is skyrl.RecEnv
    with raises(AttributeError, "Nothing"):
        _ = skyrl.Nothing


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "skyrl", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert row["prompt"] == [{"role": "user", "content": sample["prompt"]}]
        assert (row["env_class"], row["data_source"]) == ("rl4rec", tiny.data_name)
        label = json.loads(row["reward_spec"]["ground_truth"])
        assert label == {name: sample[name] for name in ("target", "history", "neg_items")}
