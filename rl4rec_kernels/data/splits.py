"""The names and seeds of the splits, and the report of what was left out of one."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from rl4rec_kernels._utils.checks import choice, whole_number

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""By default the target is a user's last item but two (train), last but one (valid) or last."""


@dataclass(frozen=True)
class DatasetReport:
    """The size of a split, and what had to be left out of it.

    Attributes
    ----------
    split : str
        Name of the split.
    users, interactions : int
        Users and interactions in the file.
    samples : int
        Samples of this split: one per user, unless there is one per target.
    unknown_interactions, unknown_items : int
        Interactions with items that have no metadata, which are removed before splitting, and the
        number of these items.
    short_users : int
        Users left out because too few items remain for a target and a history of at least one item.
    repeat_histories : int
        Samples whose history contains an item more than once; they are kept unchanged.
    repeat_targets : int
        Samples whose target is also in the history; they are kept unchanged.
    """

    split: SplitName
    users: int
    interactions: int
    samples: int
    unknown_interactions: int = 0
    unknown_items: int = 0
    short_users: int = 0
    repeat_histories: int = 0
    repeat_targets: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was left out and nothing is unusual."""
        return not any(getattr(self, field.name) for field in fields(self)[4:])

    def __str__(self) -> str:
        lines = [
            f"{self.split}: {self.samples:,} samples of {self.users:,} users "
            f"with {self.interactions:,} interactions"
        ]
        notes = [
            (
                self.unknown_interactions,
                f"interactions removed: {self.unknown_items:,} items have no metadata",
            ),
            (self.short_users, "users left out: too few items for this split"),
            (self.repeat_histories, "histories contain an item more than once; kept as they are"),
            (self.repeat_targets, "targets are also in their history; kept as they are"),
        ]
        return "\n  - ".join(lines + [f"{count:,} {note}" for count, note in notes if count])


def split_index(split: SplitName) -> int:
    """Return the position of a split in `SPLITS`, or raise ValueError."""
    return SPLITS.index(choice("split", split, SPLITS))


def split_seed(seed: int, split: SplitName) -> int:
    """Return the seed of a split's negatives, a number below 2^63.

    Users have seen the same items in every split, so with a single seed a user would get the same
    negatives in training and in the test. NumPy's ``SeedSequence([seed, i])``, i being the position
    of the split in train, valid, test, makes independent seeds, which stay the same in all versions
    of NumPy.
    """
    seed = whole_number("seed", seed, 0)  # lists of lists of themselves crash NumPy
    state = np.random.SeedSequence([seed, split_index(split)]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def choose_rows(num_rows: int, num_wanted: int | None, seed: int) -> np.ndarray:
    """Return `num_wanted` (or all) of ``0 … num_rows - 1`` at random, in ascending order."""
    if num_wanted is None or num_wanted >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, num_wanted, replace=False))
