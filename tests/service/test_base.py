"""What every retrieval service inherits from its base class."""

import asyncio

import numpy as np
import pytest

from rl4rec_kernels.service import RetrievalBackend
from tests.errors import raises


class Echo(RetrievalBackend):
    """Answers with the call itself."""

    def answer(self, call):
        return call


def test_one_method_makes_a_service():
    echo = Echo()
    call = echo.rank(["soap", "perfume"], "toys", [5, 6], [[1, 2], [-1, 3]])
    assert (call.dataset, call.texts, call.wants_scores) == ("toys", ["soap", "perfume"], False)
    assert call.candidates.to_lists() == [[5, 1, 2], [6, 3]]
    assert call.targets.tolist() == [5, 6]
    call = echo.rank(["soap"], "toys", np.array([5]), histories=[[7]])
    assert (call.candidates, call.histories.to_lists()) == (None, [[7]])
    call = echo.calculate_reward(["soap"], "toys")
    assert (call.targets, call.candidates, call.wants_scores) == (None, None, True)


def test_calls_of_one_kind_can_be_answered_together():
    echo = Echo()
    arguments = [([[1]], None), (None, [[1]]), (None, None)]
    kinds = [echo.rank(["soap"], name, [5], *ids).kind for name in "ab" for ids in arguments]
    kinds += [echo.calculate_reward(["soap"], "a", [5], ids).kind for ids in ([[1]], None)]
    kinds += [
        echo.rank_with_log_prob(["soap"], "a", [5], *ids, temperature).kind
        for ids in arguments
        for temperature in (1.0, 0.5)
    ]
    assert len(set(kinds)) == 14
    assert echo.rank(["perfume", "soap"], "a", [5, 6], [[1], [2, 3]]).kind == kinds[0]


@pytest.mark.parametrize("method", ["rank", "calculate_reward", "rank_with_log_prob"])
def test_coroutines_check_and_answer_as_the_methods(method):
    echo = Echo()
    arguments = (["soap"], "toys", [5], [[1, 2]])
    got = asyncio.run(getattr(echo, f"{method}_async")(*arguments))
    assert repr(got) == repr(getattr(echo, method)(*arguments))
    for call in (
        getattr(echo, method),
        lambda *a: asyncio.run(getattr(echo, f"{method}_async")(*a)),
    ):
        with raises(ValueError, "targets", 1, "(2,)"):
            call(["soap"], "toys", [5, 6], [[1]])


def test_negatives_need_targets():
    with raises(ValueError, "neg_items", "targets"):
        Echo().calculate_reward(["soap"], "toys", neg_items=[[1]])
