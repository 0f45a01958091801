"""tinker-cookbook 0.6.1: its own rollouts where they can be imported, and a harness of them.

pip install --no-deps --target DIR tinker-cookbook==0.6.1 tinker chz httpx sniffio distro orjson
PYTHONPATH=DIR python -m pytest tests/adapters/test_tinker_cookbook.py
"""

import asyncio
import functools
import json
import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import tinker_cookbook
from rl4rec_kernels.adapters._scoring import RewardLost
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

PROMPT = [{"role": "user", "content": "what next?"}]


class Renderer:
    """Tokens are letters; what the model thinks is a part of its message."""

    def build_generation_prompt(self, messages: list[dict]):
        assert messages == PROMPT
        return SimpleNamespace(length=1)

    def get_stop_sequences(self) -> list[str]:
        return ["<|im_end|>"]

    def parse_response(self, tokens: list[int]) -> tuple[dict, str]:
        thought, tag, text = "".join(map(chr, tokens)).rpartition("</think>")
        parts = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": text}]
        return {"role": "assistant", "content": parts if tag else text}, "stop_sequence"


class Policy:
    """Answers with one text, whatever it gets."""

    def __init__(self, text: str) -> None:
        self.tokens = list(map(ord, text))

    async def __call__(self, observation, stop, **_):
        completers = sys.modules["tinker_cookbook.completers"]
        return completers.TokensWithLogprobs(tokens=self.tokens, maybe_logprobs=[0.0] * 99)


async def harness(make, text: str, strategy: str) -> list[tuple[float, dict]]:
    """tinker_cookbook/rl/rollout_strategy.py: an Exception may be retried or dropped."""

    async def run(env):
        await env.initial_observation()
        step = await env.step(list(map(ord, text)), extra={"stop_reason": "stop"})
        assert step.episode_done
        return step.reward, step.metrics

    if strategy == "FailFast":
        return await asyncio.gather(*(run(make()) for _ in range(2)))
    results = []
    for _ in range(2):
        try:
            results.append(await run(make()))
        except Exception:
            continue
    return results


async def own(make, text: str, strategy: str) -> list[tuple[float, dict]]:
    """The same by tinker-cookbook."""
    rollouts = pytest.importorskip("tinker_cookbook.rl.rollouts", exc_type=ImportError)
    problems = pytest.importorskip("tinker_cookbook.rl.problem_env")
    strategies = pytest.importorskip("tinker_cookbook.rl.rollout_strategy")
    builder = problems.ProblemGroupBuilder(env_thunk=make, num_envs=2)
    chosen = getattr(strategies, strategy)()
    group = await rollouts.do_group_rollout(builder, Policy(text), chosen)
    metrics = [trajectory.transitions[-1].metrics for trajectory in group.trajectories_G]
    return list(zip(group.get_total_rewards(), metrics, strict=True))


@pytest.fixture(params=[harness, own])
def trainer(request, monkeypatch):
    if request.param is harness:
        types, tinker = ModuleType("tinker_cookbook.rl.types"), ModuleType("tinker")
        types.Env, types.StepResult = type("Env", (), {}), SimpleNamespace
        tinker.ModelInput = SimpleNamespace(empty=lambda: SimpleNamespace(length=0))
        monkeypatch.setitem(sys.modules, types.__name__, types)
        monkeypatch.setitem(sys.modules, tinker.__name__, tinker)
    else:
        pytest.importorskip("tinker_cookbook.rl.rollouts", exc_type=ImportError)
    tinker_cookbook._env_class.cache_clear()
    yield request.param
    tinker_cookbook._env_class.cache_clear()


@pytest.mark.parametrize("options", [None, OPTIONS], ids=["environment", "argument"])
def test_rewards_are_those_of_recreward(configured, expected, trainer, options):
    for text, label, reward in zip(TEXTS, LABELS, expected, strict=True):
        make = functools.partial(tinker_cookbook.RecEnv, Renderer(), PROMPT, label, options)
        results = asyncio.run(trainer(pickle.loads(pickle.dumps(make)), text, "FailFast"))
        assert [value for value, _ in results] == pytest.approx([reward] * 2)
        for _, metrics in results:
            assert 1 <= metrics["rank"] <= 5
            assert 0 <= metrics["hit"] <= 1


@pytest.mark.parametrize("strategy", ["FailFast", "RetryOnFailure", "MinViableGroup"])
@pytest.mark.parametrize(
    ("label", "named"), [('{"target":99}', ("targets", 99)), ("x", ("label", "x"))]
)
def test_a_failure_stops_the_run(configured, trainer, strategy, label, named):
    make = functools.partial(tinker_cookbook.RecEnv, Renderer(), PROMPT, label)
    with raises(RewardLost, *named):
        asyncio.run(trainer(make, "soap", strategy))


def test_the_class_is_made_on_demand(trainer):
    base = sys.modules["tinker_cookbook.rl.types"].Env
    assert issubclass(tinker_cookbook.RecEnv, base)
    assert tinker_cookbook.RecEnv is tinker_cookbook.RecEnv
    with raises(AttributeError, "Nothing"):
        _ = tinker_cookbook.Nothing


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "tinker_cookbook", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert row["prompt"] == [{"role": "user", "content": sample["prompt"]}]
        label = json.loads(row["label"])
        assert label == {name: sample[name] for name in ("target", "history", "neg_items")}
