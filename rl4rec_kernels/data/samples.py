"""How sequences are split into samples.

Every rule cuts a user's sequence into three parts: train, valid and test. A sample is one item or
several items of a part, its targets, and everything before them, its history.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from rl4rec_kernels._utils.checks import choice, flag, number, shown
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.data.splits import SPLITS, DatasetReport, SplitName, split_index
from rl4rec_kernels.data.times import seconds_of
from rl4rec_kernels.ids import RaggedIds, rows_of, select, to_offsets

SplitBy = Literal["leave_one_out", "ratio", "time"]
RULES: tuple[SplitBy, ...] = get_args(SplitBy)

_CHUNK = 1 << 24  # ids of seen items at once


@dataclass(frozen=True)
class SplitRule:
    """How sequences are cut; see `split_rule`."""

    by: SplitBy = "leave_one_out"
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    cuts: tuple[float, float] | None = None
    augment: bool = False


def split_rule(by: object, ratios: object, cuts: object, augment: object) -> SplitRule:
    """Check the options of `RecommendationDataset` that say how sequences are cut.

    Raises
    ------
    TypeError, ValueError
        If one is invalid; the message names it.
    """
    rule = choice("split_by", by, RULES)
    parts = as_list(ratios)
    if parts is None or len(parts) != len(SPLITS):
        raise ValueError(
            f"ratios must be three numbers, of train, valid and test, got {shown(ratios)}"
        )
    shares = [number(f"ratios[{i}]", part, 0, math.inf) for i, part in enumerate(parts)]
    if not shares[0]:
        raise ValueError(f"ratios[0], the share of train, must be more than 0, got {shown(ratios)}")
    total = math.fsum(shares)
    times = None
    if cuts is not None:
        if by != "time":
            raise ValueError(f"cuts={shown(cuts)} needs split_by='time', got {shown(by)}")
        pair = as_list(cuts)
        if pair is None or len(pair) != 2:
            raise ValueError(
                "cuts must be two times, where valid begins and where test begins, got "
                f"{shown(cuts)}"
            )
        times = seconds_of("cuts[0]", pair[0]), seconds_of("cuts[1]", pair[1])
        if times[0] > times[1]:
            raise ValueError(f"cuts must rise, got {shown(cuts)}")
    return SplitRule(
        rule, tuple(share / total for share in shares), times, flag("augment", augment)
    )


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, S of them, with users in the order of the file.

    A sample is a range of a user's sequence. With one sample per target, histories and seen items
    take the square of a user's length, so they are only made for the rows that are asked for.

    Attributes
    ----------
    user_ids : int64, shape [S]
        The user of each sample.
    targets : int64, shape [S], or RaggedIds, S rows
        The next item; RaggedIds, in the order of the sequence and without repeats, if samples may
        have several.
    report : DatasetReport
        What was left out.
    """

    user_ids: np.ndarray
    targets: Any
    report: DatasetReport
    seen_values: np.ndarray
    seen_starts: np.ndarray
    seen_lengths: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    is_last: np.ndarray  # bool [S]: the last sample of its user, of which there may be several

    def __len__(self) -> int:
        return len(self.user_ids)

    @cached_property
    def histories(self) -> RaggedIds:
        """Everything before the first target, oldest first, S rows."""
        return take_slices(self.values, self.starts, self.lengths)

    @cached_property
    def seen(self) -> RaggedIds:
        """All items the user interacted with, the same in every split, S rows."""
        return self.seen_rows(slice(None))

    @cached_property
    def last_histories(self) -> RaggedIds:
        """The last history of each user."""
        if self.is_last.all():
            return self.histories
        return take_slices(self.values, self.starts[self.is_last], self.lengths[self.is_last])

    @cached_property
    def keys(self) -> np.ndarray:
        """What a sample's negatives are drawn by, int64 [S], different for all samples of a user.

        That of a user's last sample is the user's id.
        """
        keys = self.user_ids.astype(np.uint64)
        with np.errstate(over="ignore"):
            mixed = keys * np.uint64(0x9E3779B97F4A7C15) + self.lengths.astype(np.uint64)
            # The finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return np.where(self.is_last, self.user_ids, (mixed >> np.uint64(1)).astype(np.int64))

    def chunks(self) -> Iterator[np.ndarray]:
        """Rows whose `seen` are made together; the last samples of all users first."""
        for rows in (np.flatnonzero(self.is_last), np.flatnonzero(~self.is_last)):
            ends = np.cumsum(self.seen_lengths[rows]) // _CHUNK
            yield from np.split(rows, np.flatnonzero(np.diff(ends)) + 1) if rows.size else ()

    def seen_rows(self, rows: np.ndarray | slice) -> RaggedIds:
        """`seen` of some samples."""
        return take_slices(self.seen_values, self.seen_starts[rows], self.seen_lengths[rows])

    def history(self, row: int) -> np.ndarray:
        """One row of `histories`."""
        return self.values[self.starts[row] : self.starts[row] + self.lengths[row]]


def split_sequences(
    split: SplitName, interactions: Interactions, known_items: Iterable[int], rule: SplitRule
) -> Split:
    """Split the sequences of all users into samples.

    Interactions with items that are not in `known_items` are removed first. Users whose history
    would be empty are left out; ValueError if all are.
    """
    index = split_index(split)
    if interactions.given is not None:
        return _given_samples(split, interactions, known_items, rule)
    known_ids = np.fromiter(known_items, dtype=np.int64)
    sequences = interactions.sequences
    known = np.isin(sequences.values, known_ids)
    base = select(sequences, known)
    given, times = interactions.target_positions, interactions.times
    num_lengths = np.diff(base.offsets)
    if given is not None:
        _refuse_rule(rule)
        is_target = given[index] >= 0
        target = sequences.offsets[:-1] + np.maximum(given[index], 0)
        low = to_offsets(known)[target] - base.offsets[:-1]
        low = np.where(is_target & known[np.minimum(target, known.size - 1)], low, -1)
        low, high = (np.ones_like(low) if rule.augment and not index else low), low + 1
    else:
        ends = _cut(rule, base, num_lengths, None if times is None else times[known])
        low = np.zeros_like(num_lengths) if index == 0 else ends[index - 1]
        high = ends[index]
        if index == 0 and not rule.augment:
            low = high - 1
    if rule.augment:
        low = np.maximum(low, 1)
        counts = np.maximum(high - low, 0)
        row = np.repeat(np.arange(low.size), counts)
        begin = np.arange(row.size) - np.repeat(to_offsets(counts)[:-1] - low, counts)
        end = begin + 1
    else:
        row = np.flatnonzero((low >= 1) & (high > low))
        begin, end = low[row], high[row]
    if not row.size:
        _refuse_empty(split, interactions, rule, num_lengths)
    starts = base.offsets[row]
    several = given is None and rule.by != "leave_one_out" and index > 0 and not rule.augment
    first = _first_positions(base)
    repeats = to_offsets(first < np.arange(first.size))
    targets: Any = base.values[starts + begin]
    old_targets = first[starts + begin] < starts + begin
    if several:
        # The first of equal targets in a row stays.
        where = take_slices(np.arange(first.size), starts + begin, end - begin)
        sample = rows_of(where)
        known_before = first[where.values] < (starts + begin)[sample]
        pairs = np.stack([sample, base.values[where.values]])
        unique = np.zeros(sample.size, dtype=bool)
        unique[np.unique(pairs, axis=1, return_index=True)[1]] = True
        targets = select(RaggedIds(base.values[where.values], where.offsets), unique)
        old_targets = np.unique(sample[known_before])
    unknown = sequences.values[~known]
    users = np.unique(row).size if rule.augment else row.size
    report = DatasetReport(
        split=split,
        users=num_lengths.size,
        interactions=sequences.values.size,
        samples=row.size,
        unknown_interactions=unknown.size,
        unknown_items=np.unique(unknown).size,
        short_users=num_lengths.size - users,
        repeat_histories=int((repeats[starts + begin] > repeats[starts]).sum()),
        repeat_targets=old_targets.size if several else int(old_targets.sum()),
    )
    return Split(
        user_ids=interactions.user_ids[row],
        targets=targets,
        report=report,
        seen_values=base.values,
        seen_starts=starts,
        seen_lengths=num_lengths[row],
        values=base.values,
        starts=starts,
        lengths=begin,
        is_last=np.append(row[1:] != row[:-1], True),
    )


def _given_samples(
    split: SplitName, interactions: Interactions, known_items: Iterable[int], rule: SplitRule
) -> Split:
    """The samples that the files have, without items that are not in `known_items`."""
    _refuse_rule(rule)
    if rule.augment:
        raise ValueError("augment=True: the files of this data set have all samples; leave it out")
    assert interactions.given is not None
    if split not in interactions.given:
        raise ValueError(f"the files of this data set have no split {shown(split)}")
    rows, histories, targets = interactions.given[split]
    known_ids = np.fromiter(known_items, dtype=np.int64)
    known = np.isin(histories.values, known_ids)
    histories = select(histories, known)
    kept = np.isin(targets, known_ids) & (np.diff(histories.offsets) > 0)
    if not kept.any():
        raise ValueError(
            f"no sample of split {shown(split)} has a target and a history with metadata"
        )
    sequences = interactions.sequences
    seen = select(sequences, np.isin(sequences.values, known_ids))
    row, lengths = rows[kept], np.diff(histories.offsets)[kept]
    starts = histories.offsets[:-1][kept]
    repeats = to_offsets(_first_positions(histories) < np.arange(histories.values.size))
    old = np.repeat(targets, np.diff(histories.offsets)) == histories.values
    before = to_offsets(old)
    report = DatasetReport(
        split=split,
        users=len(interactions.user_ids),
        interactions=sequences.values.size,
        samples=row.size,
        unknown_interactions=int((~known).sum()),
        unknown_items=np.setdiff1d(sequences.values, known_ids).size,
        repeat_histories=int((repeats[starts + lengths] > repeats[starts]).sum()),
        repeat_targets=int((before[starts + lengths] > before[starts]).sum()),
    )
    return Split(
        user_ids=interactions.user_ids[row],
        targets=targets[kept],
        report=report,
        seen_values=seen.values,
        seen_starts=seen.offsets[row],
        seen_lengths=np.diff(seen.offsets)[row],
        values=histories.values,
        starts=starts,
        lengths=lengths,
        is_last=np.append(row[1:] != row[:-1], True),
    )


def _cut(
    rule: SplitRule, base: RaggedIds, lengths: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where train, valid and test of each row end, int64 [U] each."""
    if rule.by == "leave_one_out":
        return np.maximum(lengths - 2, 0), np.maximum(lengths - 1, 0), lengths
    if rule.by == "ratio":
        # As RecBole 1.2 rounds (`Dataset._calcu_split_ids`), so that splits are the same: down,
        # but a part that would be empty gets one item if train keeps one.
        parts = []
        train = lengths.copy()
        for share in rule.ratios[1:]:
            parts.append((share * lengths).astype(np.int64))
            train -= parts[-1]
        for share, part in zip(rule.ratios[:0:-1], parts[::-1], strict=True):
            more = (train > 1) & (share * lengths > 0) & (share * lengths < 1)
            part += more
            train -= more
        return train, train + parts[0], lengths
    if times is None:
        raise ValueError(
            "split_by='time' needs the time of each interaction, which this data set does not have"
        )
    cuts = rule.cuts
    if cuts is None:
        ordered = np.sort(times)
        positions = np.cumsum(rule.ratios)[:2] * ordered.size
        # The small number is for shares such as 0.1, whose sums are not exact.
        at = [min(int(position + 1e-9), ordered.size - 1) for position in positions]
        cuts = float(ordered[at[0]]), float(ordered[at[1]])
    before = [to_offsets(times < cut)[base.offsets] for cut in cuts]
    valid, test = (np.diff(count) for count in before)
    return valid, test, lengths


def _refuse_rule(rule: SplitRule) -> None:
    if rule.by != "leave_one_out":
        raise ValueError(
            f"split_by={rule.by!r}: the files of this data set are split already; leave it out"
        )


def _refuse_empty(
    split: SplitName, interactions: Interactions, rule: SplitRule, lengths: np.ndarray
) -> None:
    if interactions.target_positions is not None:
        raise ValueError(
            f"no user has a target with a history in split {shown(split)}; the files of this data "
            "set are split, so add the one of this split"
        )
    longest = np.diff(interactions.sequences.offsets).max(initial=0)
    found = (
        f"the longest of {lengths.size} sequences has {longest}, of which the metadata has at most "
        f"{lengths.max(initial=0)}"
    )
    if rule.by == "leave_one_out":
        need = len(SPLITS) - split_index(split) + 1
        raise ValueError(
            f"no user has enough items for split {shown(split)}: it needs {need} items per user, "
            f"but {found}"
        )
    raise ValueError(
        f"no user has a target with a history in split {shown(split)} by {rule.by}: {found}; "
        "change ratios or cuts"
    )


def take_slices(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> RaggedIds:
    """The rows ``values[start : start + length]``."""
    offsets = to_offsets(lengths)
    index = np.arange(offsets[-1])
    index += np.repeat(starts - offsets[:-1], lengths)
    return RaggedIds(values[index], offsets)


def _first_positions(ids: RaggedIds) -> np.ndarray:
    """Where each value of a row occurs in it for the first time, int64 [nnz], among all values."""
    order = np.lexsort((ids.values, rows_of(ids)))  # stable
    values, row = ids.values[order], rows_of(ids)[order]
    is_first = np.ones(order.size, dtype=bool)
    is_first[1:] = (values[1:] != values[:-1]) | (row[1:] != row[:-1])
    first = np.empty_like(order)
    first[order] = order[is_first][np.cumsum(is_first) - 1]
    return first
