"""What jobs over a split share: some of its users, and texts that stand in for a model's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RECENT_TITLES = 5


def choose_rows(num_rows: int, wanted: int | None, seed: int) -> np.ndarray:
    """Return `wanted` of ``0 … num_rows - 1`` at random, ascending; all if there are fewer."""
    if wanted is None or wanted >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, wanted, replace=False))


def recent_titles(item_metadata: Mapping[int, Mapping[str, Any]], history: Sequence[int]) -> str:
    """The text that stands in for a language model's: a user's latest titles, the newest first."""
    titles = [item_metadata[item].get("title") for item in reversed(history[-RECENT_TITLES:])]
    return "; ".join(title for title in titles if title)
