"""ms-swift 4.6: its own code where it can be imported, and a harness of the same steps.

pip install --no-deps --target DIR ms-swift==4.6.0 modelscope modelscope-hub dacite json-repair peft
PYTHONPATH=DIR python -m pytest tests/adapters/test_ms_swift.py
"""

import asyncio
import inspect
import json
import math

import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters.ms_swift import RecORM
from tests.adapters.conftest import HISTORIES, NEGATIVES, OPTIONS, TARGETS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises

COLUMNS = {"target": TARGETS, "history": HISTORIES, "neg_items": NEGATIVES}
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
PLUGIN = """
from swift.rewards import orms
from rl4rec_kernels.adapters.ms_swift import RecORM
orms["rl4rec"] = RecORM
"""


def harness(function, rows: list[dict], texts: list[str]) -> list[float]:
    """swift/rl_core/grpo_algorithm.py, compute_rewards_per_func, for one asynchronous function."""
    assert inspect.iscoroutinefunction(function.__call__)
    columns = {name: [row.get(name) for row in rows] for name in {k for row in rows for k in row}}

    async def run() -> list:
        calls = [function(texts, trainer_state=None, **columns)]
        return await asyncio.gather(*calls)

    (output,) = asyncio.run(run())
    return [math.nan if reward is None else reward for reward in output]


def own(function, rows: list[dict], texts: list[str]) -> list[float]:
    """The same by ms-swift itself."""
    torch = pytest.importorskip("torch")
    algorithm = pytest.importorskip("swift.rl_core.grpo_algorithm")
    data = pytest.importorskip("swift.rl_core.data")
    samples = [
        data.GRPOSample.from_row({"messages": [{"role": "assistant", "content": text}], **row})
        for row, text in zip(rows, texts, strict=True)
    ]
    rewards = algorithm.score_completions(samples, [function], None, False, torch.device("cpu"))
    return rewards[:, 0].tolist()


@pytest.mark.parametrize("trainer", [harness, own])
def test_rewards_are_those_of_recreward(configured, expected, trainer):
    function = RecORM(args=object())
    ended = [f"{text}<|im_end|>" for text in TEXTS]
    for _ in range(2):  # each batch has its own event loop
        assert trainer(function, ROWS, ended) == pytest.approx(expected)
    others = trainer(function, [{"solution": "4"}, *ROWS[1:]], TEXTS)
    assert math.isnan(others[0])
    assert others[1:] == pytest.approx(expected[1:])
    none = [{**row, "target": None} for row in ROWS]
    assert all(map(math.isnan, trainer(function, none, TEXTS)))


@pytest.mark.parametrize("trainer", [harness, own])
@pytest.mark.parametrize(
    ("rows", "error", "named"),
    [
        ([{"solution": "4"}], ValueError, ("target", "export_dataset")),
        ([{**ROWS[0], "target": 99}], IndexError, ("targets", 99)),
        ([{**ROWS[0], "target": "3"}], TypeError, ("target", "'3'")),
    ],
)
def test_a_failure_stops_the_run(configured, trainer, rows, error, named):
    with raises(error, *named):
        trainer(RecORM(), rows, ["soap"])


def test_a_missing_service_stops_the_run(reward):
    options = {**OPTIONS, "retrieval_service_name": "nobody"}
    lost = type("Lost", (RecORM,), {"options": options})
    with raises(LookupError, "nobody"):
        harness(lost(), ROWS, TEXTS)


def test_bad_options_stop_the_run_at_its_start(monkeypatch):
    monkeypatch.delenv("RL4REC_REWARD", raising=False)
    with raises(ValueError, "RL4REC_REWARD"):
        RecORM()


def test_ms_swift_finds_the_function_of_a_plugin(configured, expected, tmp_path):
    utils = pytest.importorskip("swift.utils.utils")
    rewards = pytest.importorskip("swift.rewards")
    (tmp_path / "plugin.py").write_text(PLUGIN)
    utils.import_external_file(str(tmp_path / "plugin.py"))
    assert own(rewards.orms["rl4rec"](args=None), ROWS, TEXTS) == pytest.approx(expected)


def test_exported_files_are_understood(tmp_path):
    pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "ms_swift", tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, tiny, strict=True):
        assert row["messages"] == [{"role": "user", "content": sample["prompt"]}]
        assert {name: row[name] for name in COLUMNS} == {name: sample[name] for name in COLUMNS}


def test_ms_swift_keeps_the_columns_of_exported_files(tmp_path):
    hf = pytest.importorskip("datasets")
    core = pytest.importorskip("swift.dataset.preprocessor.core")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    export_dataset(tiny, "ms_swift", tmp_path / "train.jsonl")
    rows = hf.load_dataset(
        "json", data_files=str(tmp_path / "train.jsonl"), cache_dir=str(tmp_path)
    )["train"]
    kept = core.AutoPreprocessor()(rows, load_from_cache_file=False)
    for row, sample in zip(kept, tiny, strict=True):
        assert {name: row[name] for name in COLUMNS} == {name: sample[name] for name in COLUMNS}
        assert [message["content"] for message in row["messages"]] == [sample["prompt"]]
