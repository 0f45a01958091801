"""Checks of numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from rl4rec_kernels import RecReward
from rl4rec_kernels._utils.checks import number, shown, whole_number
from tests.errors import raises


def test_numbers_in_range_are_returned():
    assert whole_number("n", np.int32(3), 0, 3) == 3
    assert type(whole_number("n", np.int32(3), 0)) is int
    assert number("x", np.float32(0.5), 0, 1) == 0.5
    assert number("x", 1, 1, math.inf) == 1.0


@pytest.mark.parametrize(
    ("check", "error", "named"),
    [
        (lambda: whole_number("n", True, 0), TypeError, ("n", True)),
        (lambda: whole_number("n", 5.0, 0), TypeError, ("n", 5.0)),
        (lambda: whole_number("n", -1, 0), ValueError, ("n", "at least 0", -1)),
        (lambda: whole_number("n", 4, 0, 3), ValueError, ("n", "from 0 to 3", 4)),
        (lambda: number("x", True, 0, 1), TypeError, ("x", True)),
        (lambda: number("x", "1", 0, 1), TypeError, ("x", "'1'")),
        (lambda: number("x", -1, 0, 1), ValueError, ("x", "at least 0", "at most 1", -1)),
        (lambda: number("x", math.nan, 0, 1), ValueError, ("x", "nan")),
        (lambda: number("x", math.inf, 0, math.inf), ValueError, ("x", "finite", "inf")),
        (lambda: number("x", 0, 0, 1, strict=True), ValueError, ("x", "more than 0", 0)),
        (lambda: number("x", 1, 0, 1, strict=True), ValueError, ("x", "less than 1", 1)),
    ],
)
def test_other_numbers_are_named(check, error, named):
    with raises(error, *named):
        check()


class Broken:
    """An object whose ``repr`` raises an error."""

    def __repr__(self) -> str:
        raise RuntimeError("broken")


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [nested(100_000), {"a": nested(2000)}, Broken(), [Broken()], "x" * 10**6, [1] * 10**6]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_any_value_can_be_shown(value):
    assert len(shown(value)) < 1000
    with raises(TypeError, "n must be"):
        whole_number("n", value, 0)
    with raises(TypeError, "x must be"):
        number("x", value, 0, 1)
    with raises(TypeError, "k must be"):
        RecReward(k=value)
    for name in ("ties", "reward_type", "use_negatives_only", "normalize"):
        with raises((TypeError, ValueError), name):
            RecReward(**{name: value})


def test_short_values_are_shown_as_python_does():
    for value in (5, 1.5, "ndcg", None, ["a", 1], {"a": 1}, (1,), b"x", "a" * 400):
        assert shown(value) == repr(value)


LARGE = [10**400, 10**5000, -(10**5000), Fraction(10**400)]


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
def test_numbers_too_large_for_python_are_named(value):
    with raises(ValueError, "x must be"):
        number("x", value, 0, 1)
    with raises(ValueError, "x must be", "finite"):
        number("x", value, 0, math.inf)
    if isinstance(value, int):
        with raises(ValueError, "n must be"):
            whole_number("n", value, 0, 5)
