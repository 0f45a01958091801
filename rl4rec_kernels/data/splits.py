"""The leave-one-out split, and the report of what it left out."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.ids import RaggedIds, rows_of, select, to_offsets

SPLITS = ("train", "valid", "test")
"""The target is a user's last item but two (train), last but one (valid) or last (test)."""


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
        Users with a sample in this split.
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


def split_index(split: str) -> int:
    """Return the position of a split in `SPLITS`, or raise ValueError."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {shown(split)}")
    return SPLITS.index(split)


def split_seed(seed: int, split: str) -> int:
    """Return the seed of a split's negatives, a number below 2^63.

    Users have seen the same items in every split, so with a single seed a user would get the same
    negatives in training and in the test. NumPy's ``SeedSequence([seed, i])``, i being the position
    of the split in train, valid, test, makes independent seeds, which stay the same in all versions
    of NumPy.
    """
    state = np.random.SeedSequence([seed, split_index(split)]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def choose_rows(num_rows: int, num_wanted: int | None, seed: int) -> np.ndarray:
    """Return `num_wanted` (or all) of ``0 … num_rows - 1`` at random, in ascending order."""
    if num_wanted is None or num_wanted >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, num_wanted, replace=False))


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, with users in the order of the file.

    Attributes
    ----------
    user_ids, targets : int64, shape [U]
        The users and their next items.
    histories : RaggedIds, U rows
        Everything before the target, oldest first.
    seen : RaggedIds, U rows
        All items the user interacted with, the same in every split.
    report : DatasetReport
        What was left out.
    """

    user_ids: np.ndarray
    targets: np.ndarray
    histories: RaggedIds
    seen: RaggedIds
    report: DatasetReport


def leave_one_out(
    split: str,
    user_ids: np.ndarray,
    sequences: RaggedIds,
    known_items: Iterable[int],
    given: np.ndarray | None = None,
) -> Split:
    """Split sequences (U rows, in time order) into histories and targets.

    Interactions with items that are not in `known_items` are removed first. The target is the last
    remaining item (test), the last but one (valid) or the one before (train), the history
    everything before it. Users whose history would be empty are left out; ValueError if all are.
    `given` are the positions of the targets [U] instead, −1 if there is none.
    """
    back = len(SPLITS) - split_index(split)
    known = np.isin(sequences.values, np.fromiter(known_items, dtype=np.int64))
    remaining = select(sequences, known)
    lengths = np.diff(remaining.offsets)
    position = lengths - back  # of the target in its row
    if given is not None:
        is_target = given >= 0
        target = sequences.offsets[:-1] + np.maximum(given, 0)
        position = to_offsets(known)[target] - remaining.offsets[:-1]
        position = np.where(is_target & known[target], position, -1)
    kept = position >= 1
    unknown = sequences.values[~known]
    if given is not None and not kept.any():
        raise ValueError(
            f"no user has a target with a history in split {shown(split)}; the files of this data "
            "set are split, so add the one of this split"
        )
    if not kept.any():
        longest = np.diff(sequences.offsets).max(initial=0)
        raise ValueError(
            f"no user has enough items for split {shown(split)}: it needs {back + 1} items per "
            f"user, but the longest of {kept.size} sequences has {longest}, of which the metadata "
            f"has at most {lengths.max(initial=0)}"
        )
    values = remaining.values[np.repeat(kept, lengths)]
    seen = RaggedIds(values, to_offsets(lengths[kept]))
    position = position[kept]
    row = rows_of(seen)
    histories = select(seen, np.arange(row.size) - seen.offsets[row] < position[row])
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
        repeat_histories=_count_rows_with_repeats(histories, history_row),
        repeat_targets=np.unique(history_row[repeats]).size,
    )
    return Split(user_ids[kept], targets, histories, seen, report)


def _count_rows_with_repeats(ids: RaggedIds, row: np.ndarray) -> int:
    order = np.lexsort((ids.values, row))
    values, row = ids.values[order], row[order]
    same = (values[1:] == values[:-1]) & (row[1:] == row[:-1])
    return int(np.unique(row[1:][same]).size)
