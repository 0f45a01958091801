"""No reward is lost, and none is silently zero, in the trainers' own code.

Each run computes the rewards of one file that `export_dataset` writes: they are `RecReward`'s, or
the run stops and says why.
"""

import logging
import os
import signal
import threading

import pytest

import rl4rec_kernels as rk
from tests.trainers import (
    run_areal,
    run_ms_swift,
    run_openrlhf,
    run_skyrl,
    run_tinker_cookbook,
    run_verl,
)
from tests.trainers.conftest import NAME, NAMESPACE, TEXTS

RUNS = {
    **{("verl", mode): run_verl for mode in ("naive", "dapo", "gdpo", "remote")},
    ("openrlhf", "single turn"): run_openrlhf,
    ("areal", "workflow"): run_areal,
    ("ms_swift", "plugin"): run_ms_swift,
    ("skyrl", "gym"): run_skyrl,
    ("tinker_cookbook", "FailFast"): run_tinker_cookbook,
    ("tinker_cookbook", "RetryOnFailure"): run_tinker_cookbook,
}
OPTIONS = {"retrieval_service_name": NAME, "namespace": NAMESPACE, "reward_type": "logrank"}


@pytest.fixture(params=RUNS, ids=" ".join)
def run(request: pytest.FixtureRequest, samples, tokenizer, tmp_path, service):
    """Compute the rewards of `TEXTS` with these options."""
    trainer, mode = request.param
    module = RUNS[request.param]
    file = tmp_path / f"tiny{module.ENDING}"
    rk.export_dataset(samples, trainer, file)

    def rewards(**options):
        return module.rewards(file, TEXTS, tokenizer, {**OPTIONS, **options}, mode)

    return rewards


def test_rewards_are_those_of_recreward(run, expected):
    assert run() == pytest.approx(expected)


def test_a_service_that_was_killed_comes_back(run, expected, service):
    os.kill(service.describe()[0]["pid"], signal.SIGKILL)
    assert run() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"retrieval_service_name": "Absent"}, "Absent"),
        ({"dataset_name": "groceries"}, "groceries"),
        ({"dataset_name": "short"}, "below 3"),
        ({"reward_type": "ndgc"}, "ndgc"),
    ],
)
def test_a_bad_option_or_target_stops_the_run(run, options, named, check_stops):
    check_stops(lambda: run(**options), named)


def test_a_service_that_does_not_answer_stops_the_run(run, service, check_stops):
    process = service.describe()[0]["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        check_stops(lambda: run(timeout_s=4), "4 s")
    finally:
        os.kill(process, signal.SIGCONT)


def test_areal_stops_where_a_pool_is_forked_from_a_connected_process(
    samples, tokenizer, tmp_path, service, check_stops
):
    file = tmp_path / f"tiny{run_areal.ENDING}"
    rk.export_dataset(samples, "areal", file)

    def run():
        return run_areal.rewards(file, TEXTS, tokenizer, OPTIONS, "reward_fn")

    check_stops(run, "forked")


@pytest.fixture
def check_stops(monkeypatch, caplog):
    """Check that a run stops, and that the user can read why: in the error, in the log, or in what
    Python prints when a thread ends by an error.
    """
    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda args: printed.append(str(args.exc_value)))
    caplog.set_level(logging.INFO)

    def check(run, named):
        rewards = None
        with pytest.raises(BaseException) as error:  # noqa: PT011 (trainers stop at different ones)
            rewards = run()
        assert rewards is None
        cause = error.value
        while cause is not None:
            printed.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        assert named in "\n".join([*printed, caplog.text])

    return check
