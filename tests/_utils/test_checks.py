"""Checks of numbers."""

import math

import numpy as np
import pytest

from rl4rec_kernels._utils.checks import number, whole_number
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
