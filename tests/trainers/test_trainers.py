"""No reward is lost, and none is silently zero, in the trainers' own code.

Each run computes the rewards of one file that `export_dataset` writes: they are `RecReward`'s, or
the run stops and says why.
"""

import logging
import os
import signal

import pytest

import rl4rec_kernels as rk
from tests.trainers import run_areal, run_openrlhf, run_verl
from tests.trainers.conftest import NAME, NAMESPACE, TEXTS

RUNS = {
    **{("verl", mode): run_verl for mode in ("naive", "dapo", "gdpo", "remote")},
    ("openrlhf", "single turn"): run_openrlhf,
    **{("areal", mode): run_areal for mode in ("workflow", "reward_fn")},
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
def test_a_bad_option_or_target_stops_the_run(run, options, named, caplog):
    check_stops(run, options, named, caplog)


def test_a_service_that_does_not_answer_stops_the_run(run, service, caplog):
    process = service.describe()[0]["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        check_stops(run, {"timeout_s": 4}, "4 s", caplog)
    finally:
        os.kill(process, signal.SIGCONT)


def check_stops(run, options, named, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(BaseException) as error:  # noqa: PT011 (some trainers only stop at these)
        pytest.fail(f"the run went on with {run(**options)}")
    causes, cause = [], error.value
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    assert not isinstance(error.value, pytest.fail.Exception), error.value
    assert named in "\n".join([*causes, caplog.text])
