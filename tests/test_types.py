"""The names that type checkers know are those that the functions take, and no others."""

import inspect
from typing import get_args

import pytest

import rl4rec_kernels as rk
from rl4rec_kernels.data.layouts import FOLDERS, LAYOUTS, LayoutName
from rl4rec_kernels.data.sources import SourceOptions
from rl4rec_kernels.evaluation.correction import METHODS
from rl4rec_kernels.index.encoder import ENGINES
from rl4rec_kernels.metrics import TieRule, Ties, parse_ties
from rl4rec_kernels.ops._backends import BACKENDS
from rl4rec_kernels.rewards.formulas import RewardName, reward_parts
from tests.errors import raises


def test_tie_rules():
    assert [parse_ties(name) for name in get_args(TieRule)] == list(Ties)


def test_layouts():
    assert set(get_args(LayoutName)) == {*LAYOUTS, *FOLDERS}


def test_reward_types():
    for name in get_args(RewardName):
        assert sum(reward_parts(name, 10, 0.05).values()) == pytest.approx(1)
    with raises(ValueError, "reward_type", "'mixed_softmax'"):
        reward_parts("mixed_softmax", 10, 0.05)


def test_options_of_the_class_methods_are_those_of_the_functions():
    known = {
        **inspect.signature(rk.read_interactions).parameters,
        **inspect.signature(rk.RecommendationDataset.from_interactions).parameters,
    }
    for name in ("source", "interactions", "split"):
        del known[name]
    assert list(SourceOptions.__annotations__) == list(known)


@pytest.mark.parametrize(
    ("function", "parameter", "choices"),
    [
        (rk.topk_catalog, "backend", BACKENDS),
        (rk.rank_candidates, "backend", BACKENDS),
        (rk.metrics_from_counts, "ties", get_args(TieRule)),
        (rk.RecReward.__init__, "ties", get_args(TieRule)),
        (rk.corrected_metrics, "method", METHODS),
        (rk.Encoder.__init__, "backend", ENGINES),
    ],
)
def test_signatures_name_the_choices(function, parameter, choices):
    assert get_args(inspect.signature(function).parameters[parameter].annotation) == choices
