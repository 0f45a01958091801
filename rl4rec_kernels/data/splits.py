"""The leave-one-out split and the account of what it left out."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from rl4rec_kernels.ids import RaggedIds, rows_of, select, to_offsets

SPLITS = ("train", "valid", "test")
"""The target is a user's last item but two (train), last but one (valid) or last (test)."""


@dataclass(frozen=True)
class DatasetReport:
    """What a split was made of, and what had to be left out of it.

    Attributes
    ----------
    split : str
        Name of the split.
    users, interactions : int
        Users and interactions in the file.
    samples : int
        Users that have a sample in this split.
    unknown_interactions, unknown_items : int
        Interactions with items that the metadata does not have, removed before splitting, and
        how many items these are.
    short_users : int
        Users left out because fewer items remain than a history of one item and the target need.
    repeat_histories : int
        Samples whose history holds an item more than once; it stays as it is.
    repeat_targets : int
        Samples whose target is also in the history; it stays as it is.
    """

    split: str
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
        notes = {
            f"{self.unknown_interactions:,} interactions removed: "
            f"{self.unknown_items:,} items have no metadata": self.unknown_interactions,
            f"{self.short_users:,} users left out: too few items for this split": self.short_users,
            f"{self.repeat_histories:,} histories hold an item more than once; kept as they are": (
                self.repeat_histories
            ),
            f"{self.repeat_targets:,} targets are also in their history; kept as they are": (
                self.repeat_targets
            ),
        }
        return "\n  - ".join(lines + [note for note, count in notes.items() if count])


def split_index(split: str) -> int:
    """Return the position of a split in `SPLITS`.

    Raises
    ------
    ValueError
        If there is no split of that name.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return SPLITS.index(split)


def split_seed(seed: int, split: str) -> int:
    """Return the seed of a split's negatives, a number below 2^63.

    What a user has seen is the same in every split, so one seed would give a user the same
    negatives in training and in the test. NumPy's ``SeedSequence([seed, i])``, i being the
    split's position in train, valid, test, makes a seed for each that shares nothing with the
    others, and stays the same from one NumPy version to the next.
    """
    state = np.random.SeedSequence([seed, split_index(split)]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, by user in the order of the file.

    Attributes
    ----------
    user_ids, targets : int64, shape [U]
        The users and what they took next.
    histories : RaggedIds, U rows
        Everything before the target, oldest first.
    seen : RaggedIds, U rows
        Everything the user ever took, the same in every split.
    report : DatasetReport
        What was left out.
    """

    user_ids: np.ndarray
    targets: np.ndarray
    histories: RaggedIds
    seen: RaggedIds
    report: DatasetReport


def leave_one_out(
    split: str, user_ids: np.ndarray, sequences: RaggedIds, known_items: Iterable[int]
) -> Split:
    """Split sequences into histories and targets.

    Interactions with items outside `known_items` are removed first. The target is the last item
    that remains (test), the last but one (valid) or the one before (train), the history everything
    before it. Users whose history would be empty are left out.

    Parameters
    ----------
    split : str
        One of `SPLITS`.
    user_ids : int64, shape [U]
        Ids of the users.
    sequences : RaggedIds, U rows
        Their items in time order.
    known_items : iterable of int
        The items that exist.

    Raises
    ------
    ValueError
        If no user has enough items.
    """
    back = len(SPLITS) - split_index(split)
    known = np.isin(sequences.values, np.fromiter(known_items, dtype=np.int64))
    remaining = select(sequences, known)
    position = np.diff(remaining.offsets) - back  # of the target in its row
    kept = position >= 1
    unknown = sequences.values[~known]
    if not kept.any():
        raise ValueError(
            f"no user has a sample in split {split!r}: it needs {back + 1} items a user, and the "
            f"longest of {kept.size} sequences has {np.diff(sequences.offsets).max(initial=0)}, of "
            f"which the metadata knows at most {position.max(initial=-back) + back}"
        )
    lengths = np.diff(remaining.offsets)
    values = remaining.values[np.repeat(kept, lengths)]
    seen = RaggedIds(values, to_offsets(lengths[kept]))
    position = position[kept]
    row = rows_of(seen)
    place = np.arange(row.size) - seen.offsets[row]
    histories = select(seen, place < position[row])
    targets = seen.values[seen.offsets[:-1] + position]

    history_row = rows_of(histories)
    repeats = histories.values == targets[history_row]
    report = DatasetReport(
        split=split,
        users=kept.size,
        interactions=sequences.values.size,
        samples=int(kept.sum()),
        unknown_interactions=unknown.size,
        unknown_items=np.unique(unknown).size,
        short_users=int((~kept).sum()),
        repeat_histories=_rows_with_repeats(histories, history_row),
        repeat_targets=np.unique(history_row[repeats]).size,
    )
    return Split(user_ids[kept], targets, histories, seen, report)


def _rows_with_repeats(ragged: RaggedIds, row: np.ndarray) -> int:
    order = np.lexsort((ragged.values, row))
    values, row = ragged.values[order], row[order]
    same = (values[1:] == values[:-1]) & (row[1:] == row[:-1])
    return int(np.unique(row[1:][same]).size)
