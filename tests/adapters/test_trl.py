"""TRL's own GRPOTrainer calls the reward, on a tiny model."""

import asyncio
import inspect
import logging
import pickle

import numpy as np
import pytest

from rl4rec_kernels import RecReward
from rl4rec_kernels.adapters import trl as adapter
from rl4rec_kernels.adapters.trl import AsyncTRLReward, TRLReward, share_without_spread
from rl4rec_kernels.rewards.completions import extract_query
from tests.adapters.conftest import HISTORIES, NEGATIVES, TARGETS, TEXTS
from tests.errors import raises
from tests.tiny_model import tiny_chat_model

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")

PROMPTS = ["what next?", "what next?", "and then?", "and then?"]
COLUMNS = {"target": TARGETS, "history": HISTORIES, "neg_items": NEGATIVES}


def chat(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def make(reward: RecReward, reward_type: str) -> RecReward:
    return RecReward(reward.retrieval_service_name, reward.namespace, "toys", reward_type)


def make_trainer(functions, conversational: bool, tmp_path):
    """A GRPOTrainer for a tiny model."""
    model, tokenizer = tiny_chat_model()
    prompts = [chat("user", text) for text in PROMPTS] if conversational else PROMPTS
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        logging_steps=1,
        save_strategy="no",
        log_completions=True,
        disable_tqdm=True,
    )
    rows = datasets.Dataset.from_dict({"prompt": prompts, **COLUMNS})
    return trl.GRPOTrainer(
        model, functions, args=config, train_dataset=rows, processing_class=tokenizer
    )


@pytest.mark.parametrize("conversational", [False, True], ids=["plain", "conversational"])
def test_trainer_gets_the_rewards_and_logs_them(reward, expected, conversational, tmp_path):
    other = make(reward, "mrr")
    functions = [TRLReward(reward), AsyncTRLReward(other)]
    trainer = make_trainer(functions, conversational, tmp_path)
    inputs = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    prompts = [chat("user", text) for text in PROMPTS] if conversational else PROMPTS
    texts = [chat("assistant", text) for text in TEXTS] if conversational else TEXTS
    rewards = trainer._calculate_rewards(inputs, prompts, texts, [[0]] * 4).T.tolist()
    assert rewards[0] == pytest.approx(expected)
    assert rewards[1] == pytest.approx(other(TEXTS, TARGETS, HISTORIES, NEGATIVES))

    trainer.train()
    log = trainer.state.log_history[0]
    for name in ("rec_logrank", "rec_mrr"):
        assert 0 <= log[f"rewards/{name}/mean"] <= 1
        assert 1 <= log[f"{name}/mean_rank"] <= 5
        assert 0 <= log[f"{name}/groups_without_spread"] <= 1
    assert 0 <= log["rec_logrank/hit@3"] <= 1

    table = pandas.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
    for name in ("rec_logrank", "rec_mrr"):
        written = [text[-1]["content"] if conversational else text for text in table["completion"]]
        assert list(table[f"{name}/query"]) == [extract_query(text) for text in written]
        assert set(table[f"{name}/target"]) <= set(TARGETS)
        assert table[f"{name}/rank"].between(1, 5).all()


def test_asynchronous_to_all_versions_of_trl(reward, expected):
    from trl.trainer.utils import get_callable_name, is_async_callable

    function = AsyncTRLReward(reward)
    assert inspect.iscoroutinefunction(function)
    assert is_async_callable(function)
    assert not is_async_callable(TRLReward(reward))
    assert not inspect.iscoroutinefunction(TRLReward(reward))
    assert get_callable_name(function) == function.__name__ == "rec_logrank"
    copy = pickle.loads(pickle.dumps(function))
    assert asyncio.run(copy(PROMPTS, TEXTS, completion_ids=[[0]] * 4, **COLUMNS)) == expected


@pytest.mark.parametrize("installed", ["0.24.0", "0.26.2", "0.27.0", "1.16.0.dev0", None])
def test_releases_that_do_not_await_are_named(reward, monkeypatch, installed):
    """MiniOneRec and Unsloth pin TRL 0.24, which iterates over the coroutine."""

    def version(name: str) -> str:
        if installed is None:
            raise adapter.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(adapter, "version", version)
    TRLReward(reward)
    if installed in ("0.24.0", "0.26.2"):
        with raises(RuntimeError, "AsyncTRLReward", "0.27", installed, "pass TRLReward"):
            AsyncTRLReward(reward)
    else:
        AsyncTRLReward(reward)


def test_logged_metrics_are_those_of_the_samples(reward):
    logged = {}
    function = TRLReward(reward)
    same = [TEXTS[0], TEXTS[0], *TEXTS[2:]]
    rewards = function(PROMPTS, same, log_metric=logged.__setitem__, **COLUMNS)
    want = reward.compute_metrics(same, TARGETS, HISTORIES, NEGATIVES, ("rank", "hit@3"))
    assert logged["rec_logrank/mean_rank"] == pytest.approx(want["rank"])
    assert logged["rec_logrank/hit@3"] == pytest.approx(want["hit@3"])
    flat = (rewards[0] == rewards[1]) + (rewards[2] == rewards[3])
    assert logged["rec_logrank/groups_without_spread"] == flat / 2 >= 0.5


def test_share_without_spread():
    assert share_without_spread(["a", "a", "b", "b", "b"], [1, 1, 0, 0, 1]) == 0.5
    assert share_without_spread(["a", "b"], [1, 1]) is None
    assert share_without_spread(["a", "a", "b"], [1, 1, 0]) == 1


def test_rows_of_other_tasks_get_none(reward, expected):
    logged, table = {}, {}
    columns = {
        "log_extra": table.__setitem__,
        "target": [None, *TARGETS[1:3], None],
        "history": [None, *HISTORIES[1:3], None],
        "neg_items": [None, *NEGATIVES[1:3], None],
    }
    for function in (TRLReward(reward), AsyncTRLReward(reward)):
        got = function(PROMPTS, TEXTS, log_metric=logged.__setitem__, **columns)
        got = asyncio.run(got) if inspect.iscoroutine(got) else got
        assert got == [None, *expected[1:3], None]
        # TRL needs columns as long as the batch
        assert table["rec_logrank/query"] == [None, "dry hair", "perfume", None]
        assert table["rec_logrank/target"] == columns["target"]
        ranks = make(reward, "rank")(TEXTS[1:3], TARGETS[1:3], HISTORIES[1:3], NEGATIVES[1:3])
        assert table["rec_logrank/rank"] == [None, *ranks, None]
    assert "rec_logrank/groups_without_spread" not in logged  # no group was seen whole
    assert function.__name__ in {name.partition("/")[0] for name in logged}
    nothing = TRLReward(reward)(
        PROMPTS, TEXTS, target=[None] * 4, log_extra=table.__setitem__, log_metric=None
    )
    assert nothing == [None] * 4
    assert all(column == [None] * 4 for column in table.values())


def test_columns_may_be_of_other_libraries(reward, expected):
    """Tables of pandas: floats where there are gaps, and an index that is not the row."""
    frame = pandas.DataFrame({"text": TEXTS, **COLUMNS}, index=[9, 3, 0, 1])
    columns = {name: frame[name] for name in COLUMNS}
    assert TRLReward(reward)(PROMPTS, frame["text"], **columns) == expected
    frame.iloc[0, 1:] = float("nan")
    columns = {name: frame[name] for name in COLUMNS}
    assert TRLReward(reward)(PROMPTS, np.array(TEXTS), **columns) == [None, *expected[1:]]
    rows = datasets.Dataset.from_dict(COLUMNS)
    assert TRLReward(reward)(PROMPTS, TEXTS, **{name: rows[name] for name in COLUMNS}) == expected


def test_invalid_arguments_are_named(reward, caplog):
    with raises(TypeError, "reward", "RecReward", "'ndcg'"):
        TRLReward("ndcg")
    function = TRLReward(reward)
    with raises(ValueError, "column target", "to_hf"):
        function(PROMPTS, TEXTS)
    with raises(ValueError, "history", 1, 4):
        function(PROMPTS, TEXTS, target=TARGETS, history=[[1]])
    for targets in (3, "3333"):
        with raises(TypeError, "target"):
            function(PROMPTS, TEXTS, target=targets)
    for name, column in (("target", [3, 3.9, 17, 17]), ("history", [[1], [3.9], [], []])):
        with raises(TypeError, f"{name}[1]", "3.9"):
            function(PROMPTS, TEXTS, **{**COLUMNS, name: column})
    with caplog.at_level(logging.WARNING), raises(IndexError, "targets", 99):
        function(PROMPTS, TEXTS, target=[99] * 4, history=HISTORIES)
