"""Checks of drawn and given negatives."""

import numpy as np
import pytest

from rl4rec_kernels import RaggedIds
from rl4rec_kernels.negatives.checks import verify_negatives
from tests.errors import raises


@pytest.mark.parametrize(
    ("negatives", "named"),
    [
        ([[5, 6], [4, 4]], ("negative 4", "user 8", "twice")),
        ([[5, 6], [4, 1]], ("negative 1", "user 8", "seen")),
        ([[3, 6], [4, 5]], ("negative 3", "user 7", "seen")),
        ([[5, 0], [4, 5]], ("negative 0", "user 7", "1 to 9")),
        ([[5, 10], [4, 5]], ("negative 10", "user 7", "1 to 9")),
        ([[5, 9], [4, 5]], ("negative 9", "user 7", "weight 0")),
    ],
)
def test_verification_finds_every_violation(negatives, named):
    seen = RaggedIds.from_lists([[2, 3], [1, 9]])
    weights = np.ones(10)
    weights[9] = 0
    verify_negatives(np.array([[5, 1], [3, 2]]), 10, seen, np.array([7, 8]), weights)
    with raises(ValueError, *named):
        verify_negatives(np.array(negatives), 10, seen, np.array([7, 8]), weights)
