"""Every bad value of every parameter is a TypeError or ValueError that names the parameter."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bad_values import CALLS, SKIPPED, VALUES, parameters, public

# A bad value of an id or a path may also be one that does not exist.
ERRORS = (TypeError, ValueError, IndexError, FileNotFoundError)

ELSEWHERE = {
    "Evaluation",  # what `evaluate` returns
    "Evaluation.check_metrics",
    "Evaluation.plot",
    "Evaluation.save",
    "Evaluation.table",
    "Interactions",  # what `read_interactions` returns
    "ItemIndex.check_items",  # of the service
    "LocalRetrievalService.answer",  # take a Call, which has been checked
    "LocalRetrievalService.answer_async",
    "RetrievalClient.answer",
    "RetrievalClient.answer_async",
    "RetrievalClient.raw_items",  # as of the local service
    "RaggedIds.count",  # of tuples
    "RaggedIds.index",
    "PromptGenerator.generate_prompt",  # is `generate`
    "QuantizedTable",  # named tuples, checked where they are used
    "RankCounts",
    "RecRewardFrunction",  # is `RecReward`
    "RecommendationDataset.to_hf",  # in test_flags.py
    "RetrievalService",  # an actor, made by `start_service`
    "ShardedTable",  # needs several processes
    "cached_index",  # is ItemIndex.open and ItemIndex.build
    "cpu_level",
}


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_bad_values_are_errors_that_name_the_parameter(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = CALLS[name]
    wrong = []
    for parameter, good in parameters(name):
        for kind, value in VALUES.items():
            if (name, parameter, kind) in SKIPPED:
                continue
            given = (one for one in ()) if kind == "generator" else value
            try:
                with no_longer_than(20):
                    function(**arguments | {parameter: given})
            except ERRORS as error:
                is_named = parameter in str(error) or kind in good
                is_missing = isinstance(error, FileNotFoundError) and kind in ("text", "path")
                if not is_named and not is_missing:
                    wrong.append(f"{parameter}, {kind}: does not name it: {error!r}")
            except Exception as error:
                if kind not in good:
                    wrong.append(f"{parameter}, {kind}: {error!r}")
            else:
                if kind not in good:
                    wrong.append(f"{parameter}, {kind}: accepted")
    assert not wrong, f"{name}:\n" + "\n".join(wrong)


def test_all_that_is_public_is_tested():
    tested = {name.removesuffix(".__call__") for name in CALLS} | ELSEWHERE
    missing = [name for name in public() if name not in tested and not _is_covered(name)]
    assert not missing


def _is_covered(name: str) -> bool:
    """Whether a method is another form of one that is tested, or of a class that is not."""
    base = name.partition(".")[0]
    plain = name.removesuffix("_async")
    inherited = f"LocalRetrievalService.{plain.partition('.')[2]}"
    return base in ELSEWHERE or plain in CALLS or inherited in CALLS
