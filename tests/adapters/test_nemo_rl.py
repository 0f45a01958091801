"""NeMo-RL 0.7, by a harness of the steps that its code takes, and on Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl4rec_kernels import RecReward
from rl4rec_kernels.adapters import nemo_rl
from rl4rec_kernels.data import write_label
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.errors import raises

ROOT = Path(__file__).parents[2]
ON_RAY = {"retrieval_service_name": "OnRay", "namespace": "tests", "dataset_name": "toys"}

# What `register` and the launcher use of NeMo-RL, and a script of its that prints what it finds.
FAKE = {
    "nemo_rl/environments/utils.py": """
ENV_REGISTRY = {}
def register_env(env_name, actor_class_fqn):
    if env_name in ENV_REGISTRY:
        raise ValueError(f"Env name {env_name} already registered")
    ENV_REGISTRY[env_name] = {"actor_class_fqn": actor_class_fqn}
""",
    "nemo_rl/distributed/virtual_cluster.py": """
class PY_EXECUTABLES:
    SYSTEM = "python"
""",
    "nemo_rl/distributed/ray_actor_environment_registry.py": "ACTOR_ENVIRONMENT_REGISTRY = {}",
    "run_grpo.py": """
import sys
from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
from nemo_rl.environments.utils import ENV_REGISTRY
if __name__ == "__main__":
    print(ENV_REGISTRY, ACTOR_ENVIRONMENT_REGISTRY, sys.argv)
""",
}


def calculate_rewards(env, batch: list[tuple[list[dict], dict]]) -> list[float]:
    """nemo_rl/experience/rollouts.py, calculate_rewards: the answer is unpacked by position."""
    logs = [[{key: m[key] for key in ("role", "content")} for m in log] for log, _ in batch]
    observations, metadata, stops, rewards, terminateds, answers = env.step(
        logs, [info for _, info in batch]
    )
    stops = [None] * len(terminateds) if stops is None else stops
    answers = [None] * len(terminateds) if answers is None else answers
    rows = zip(observations, metadata, stops, rewards, terminateds, answers, strict=True)
    return [reward.item() for _, _, _, reward, done, _ in rows if done.bool()]


def test_rewards_are_those_of_recreward(reward, expected):
    env = nemo_rl.RecEnvironment({"reward": OPTIONS})
    batch = [
        (
            [
                {"role": "user", "content": "what next?", "token_ids": torch.tensor([1])},
                {"role": "assistant", "content": text, "token_ids": torch.tensor([2])},
            ],
            {"ground_truth": label},
        )
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    assert calculate_rewards(env, batch) == pytest.approx(expected)
    kept = {"rewards": torch.tensor(expected)}
    batch, metrics = env.global_post_process_and_metrics(kept)
    assert batch is kept
    assert metrics["reward"] == pytest.approx(sum(expected) / 4)
    with raises(ValueError, "config", "reward"):
        nemo_rl.RecEnvironment({})


def test_a_process_without_the_package_calls_the_environment(ray, client):
    """As in asynchronous GRPO, where rollouts are collected in the virtual environment of vLLM."""
    labels = [write_label(target, [1], [5, 6, 7, 8]) for target in (2, 3, 4, 9)]

    @ray.remote(num_cpus=0)
    class Collector:
        def __init__(self):
            sys.modules["rl4rec_kernels"] = None

        def imports(self):
            try:
                import rl4rec_kernels  # noqa: F401
            except ImportError:
                return False
            return True

        def step(self, env, texts, labels):
            logs = [[{"role": "assistant", "content": text}] for text in texts]
            answer = ray.get(env.step.remote(logs, [{"ground_truth": label} for label in labels]))
            assert type(answer) is tuple
            return answer

        def error(self, env, labels):
            try:
                self.step(env, ["soap"], labels)
            except Exception as error:
                return str(error)

    collector = Collector.remote()
    assert not ray.get(collector.imports.remote())
    # as nemo_rl/environments/utils.py, create_env
    runtime = {"py_executable": sys.executable, "env_vars": dict(os.environ)}
    env = nemo_rl.RecEnvironmentActor.options(runtime_env=runtime).remote({"reward": ON_RAY})
    answer = ray.get(collector.step.remote(env, TEXTS, labels))
    negatives = [[5, 6, 7, 8]] * 4
    expected = RecReward(**ON_RAY)(TEXTS, [2, 3, 4, 9], [[1]] * 4, negatives)
    assert answer[3].tolist() == pytest.approx(expected)
    assert "9999" in ray.get(collector.error.remote(env, [write_label(9999, [1])]))
    lost = {"reward": {**ON_RAY, "retrieval_service_name": "Absent"}}
    lost = nemo_rl.RecEnvironmentActor.options(runtime_env=runtime).remote(lost)
    assert "Absent" in ray.get(collector.error.remote(lost, labels[:1]))
    for actor in (env, lost, collector):
        ray.kill(actor)


def test_the_launcher_registers_the_environment_and_runs_a_script(tmp_path):
    for name, text in FAKE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = [str(tmp_path / "run_grpo.py"), "--config", "some.yaml"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "nemo_rl_grpo.py"), *script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    actor = "rl4rec_kernels.adapters.nemo_rl.RecEnvironmentActor"
    expected = ({"rl4rec": {"actor_class_fqn": actor}}, {actor: "python"}, script)
    assert run.stdout.strip() == " ".join(map(str, expected))


def test_the_actor_class_is_made_on_demand():
    ray = pytest.importorskip("ray")
    assert isinstance(nemo_rl.RecEnvironmentActor, ray.actor.ActorClass)
    with raises(AttributeError, "Nothing"):
        _ = nemo_rl.Nothing
