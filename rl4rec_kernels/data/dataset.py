"""``RecommendationDataset``: one sample per user, with a prompt, a target and negatives."""

import copy
import logging
import math
import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex, TypedDict

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from rl4rec_kernels._utils.arrays import as_array
from rl4rec_kernels._utils.checks import (
    MAX_SEED,
    amount,
    as_path,
    number,
    shown,
    text,
    whole_number,
)
from rl4rec_kernels.data.export import to_hf
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.data.item_fields import ItemMetadata
from rl4rec_kernels.data.loading import load_interactions
from rl4rec_kernels.data.prompts import MakesPrompts, check_metadata
from rl4rec_kernels.data.raw_ids import RawIds, Tokens
from rl4rec_kernels.data.samples import SplitBy, split_rule, split_sequences
from rl4rec_kernels.data.sources import FromSource
from rl4rec_kernels.data.splits import DatasetReport, SplitName, split_index, split_seed
from rl4rec_kernels.data.times import Time
from rl4rec_kernels.ids import RaggedIds, as_int64, most_rows, prepend
from rl4rec_kernels.negatives.checks import sampling_weights, verify_negatives
from rl4rec_kernels.negatives.sampling import MAX_ITEMS, sample_negatives

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger("rl4rec_kernels.data")


class Sample(TypedDict):
    """One sample: a user's history, the next item, and negatives."""

    prompt: str
    history: list[int]
    target: int | list[int]
    user_id: int
    neg_items: list[int]


class RecommendationDataset(FromSource, Dataset[Sample]):
    """One split of a dataset, one sample per user.

    By default the target is the user's last item (``"test"``), the last but one (``"valid"``) or
    the one before (``"train"``), unless the files are split already; the history is everything
    before the target. What had to be left out is in `report`, and logged as a warning. Negatives
    are drawn and checked in the constructor; prompts are made when a sample is accessed.

    Parameters
    ----------
    data_name : str
        Name of the dataset, which is its directory in `data_dir`.
    item_metadata : mapping of int to mapping
        The items, from `load_item_metadata`.
    prompt_generator : callable
        Makes a prompt from a history, for example a `PromptGenerator`.
    split : str
        ``"train"``, ``"valid"`` or ``"test"``.
    num_negs : int
        Negatives per sample. 0 draws none; the target is then ranked among all items.
    num_items : int, optional
        Rows of the item table, including padding: ``max(item_metadata) + 1``. Required for
        negatives.
    seed : int
        Seed of the negatives, at least 0. A user's negatives depend only on it, on the split (see
        `rl4rec_kernels.data.split_seed`) and on the user's id.
    data_dir : path, optional
        The directory that contains the dataset's directory. Default: ``RL4REC_DATA`` or ``./data``.
    neg_alpha : float
        Draw negatives in proportion to popularity^neg_alpha; 0 draws uniformly. Popularity is
        `item_counts`, so with ``neg_alpha > 0`` items that are in no history are never drawn.
    interactions : Interactions, optional
        Interactions that are already loaded. No file is read then.
    split_by : str
        How sequences are cut into train, valid and test. ``"leave_one_out"``: see above.
        ``"ratio"``: each user's by `ratios`, rounded as by RecBole. ``"time"``: those of all users
        at the same two times. With the last two, all items of valid or test are a user's targets,
        and the target of train is the last item of its part.
    ratios : three numbers
        The shares of train, valid and test. By time, they are shares of all interactions.
    cuts : two times, optional
        With ``split_by="time"``: where valid and test begin, in seconds since 1970 or as dates.
        Default: where `ratios` are.
    augment : bool
        Make one sample per target, with everything before it as its history. In train these are
        all prefixes of the user's part.

    Attributes
    ----------
    user_ids : int64, shape [S]
        The user of each sample; U users have S = U samples unless there is one per target.
    targets : int64, shape [S], or RaggedIds, S rows
        The next items; RaggedIds if a sample may have several.
    negatives : int64, shape [S, num_negs]
        The ``neg_items`` of all samples; see `with_negatives`.
    raw_users, raw_items : RawIds
        Turn ids into those of the data set's own file, and back. They are the same unless the file
        has names, or numbers that are too sparse for a table.

    Notes
    -----
    An item that the user has in any split is never a negative, so a later item is not one either,
    and all splits exclude the same items. Negatives always have metadata, and are never padding.
    With one sample per target, they also depend on the length of the history, and `histories` and
    `seen` have the square of a user's items: they are made when they are asked for.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid: negatives without `num_items`, an item id that is not below
        `num_items`, a user with fewer than `num_negs` unseen items.
    FileNotFoundError
        If there is no such dataset.
    """

    def __init__(
        self,
        data_name: str,
        item_metadata: ItemMetadata,
        prompt_generator: MakesPrompts,
        split: SplitName,
        num_negs: int = 0,
        num_items: int | None = None,
        seed: int = 42,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        neg_alpha: float = 0.0,
        interactions: Interactions | None = None,
        split_by: SplitBy = "leave_one_out",
        ratios: Sequence[float] = (0.8, 0.1, 0.1),
        cuts: Sequence[Time] | None = None,
        augment: bool = False,
    ) -> None:
        split_index(split)
        rule = split_rule(split_by, ratios, cuts, augment)
        check_metadata(item_metadata)
        if not callable(prompt_generator):
            raise TypeError(
                "prompt_generator must be callable, such as PromptGenerator(item_metadata), "
                f"got {shown(prompt_generator)}"
            )
        num_negs = amount("num_negs", num_negs, 0, MAX_ITEMS)
        seed = amount("seed", seed, 0, MAX_SEED)
        if num_items is not None:
            num_items = whole_number("num_items", num_items, 2, MAX_ITEMS)
            amount("num_items", num_items, 2, most_rows(len(item_metadata)))
        elif num_negs:
            raise ValueError(
                f"num_negs={num_negs} needs num_items, the number of rows of the item "
                "table; pass num_items=max(item_metadata.keys()) + 1"
            )
        neg_alpha = number("neg_alpha", neg_alpha, 0, math.inf)
        text("data_name", data_name)
        if data_dir is not None:
            as_path("data_dir", data_dir)
        if interactions is not None and not isinstance(interactions, Interactions):
            raise TypeError(
                "interactions must be Interactions, as load_interactions returns them, got "
                f"{shown(interactions)}"
            )
        if interactions is None:
            interactions = load_interactions(data_name, data_dir)
        known = np.fromiter(item_metadata, dtype=np.int64)
        if known.max() >= most_rows(len(known)):
            raise ValueError(
                f"item_metadata has item {known.max()}, but the ids of {len(known)} items must be "
                f"less than {most_rows(len(known))}; number the items from 1"
            )
        if num_items is None:
            num_items = int(known.max()) + 1
        else:
            _check_range(num_items, known, interactions)

        samples = split_sequences(split, interactions, known, rule)
        self.data_name = data_name
        self.item_metadata = item_metadata
        self.prompt_generator = prompt_generator
        self.split: SplitName = split
        self.num_negs = num_negs
        self.num_items = num_items
        self.seed = seed
        self.user_ids: np.ndarray = samples.user_ids
        self.targets: np.ndarray | RaggedIds = samples.targets
        self._samples = samples
        self.neg_alpha = neg_alpha
        self.user_tokens: Tokens | None = interactions.user_tokens
        self.item_tokens: Tokens | None = interactions.item_tokens
        self.raw_users: RawIds = RawIds(interactions.user_tokens)
        self.raw_items: RawIds = RawIds(interactions.item_tokens)
        self.report: DatasetReport = samples.report
        self.negatives = np.empty((len(self), 0), dtype=np.int64)
        if num_negs:
            self.negatives = self._draw(num_negs)
        if not self.report.clean:
            logger.warning("%s %s", data_name, self.report)

    @property
    def histories(self) -> RaggedIds:
        """The items before the target of each sample, oldest first."""
        return self._samples.histories

    @property
    def seen(self) -> RaggedIds:
        """All items that the user of each sample interacted with, in any split."""
        return self._samples.seen

    @property
    def item_counts(self) -> np.ndarray:
        """How often each item occurs in the histories of this split, int64 [num_items].

        Of several samples of a user, only the last history counts, which contains the others.
        """
        counted = self._samples.last_histories
        return np.bincount(counted.values, minlength=self.num_items)

    def __len__(self) -> int:
        return int(self.user_ids.size)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        i = self._row(index)
        history = self.history(i)
        return {
            "prompt": self.prompt_generator(history),
            "history": history,
            "target": self.target(i),
            "user_id": int(self.user_ids[i]),
            "neg_items": self.negatives[i].tolist(),
        }

    def _row(self, index: SupportsIndex) -> int:
        """The row of a sample, which may be counted from the end."""
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(f"index must be a whole number, got {shown(index)}") from None
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range: the split has {len(self)} samples")
        return i % len(self)

    def history(self, index: int) -> list[int]:
        """Return the history of the sample at `index`, without making its prompt."""
        return list(self._samples.history(self._row(index)).tolist())

    def target(self, index: int) -> int | list[int]:
        """Return the target of the sample at `index`: a list if `targets` is `RaggedIds`."""
        index = self._row(index)
        if isinstance(self.targets, RaggedIds):
            start, end = self.targets.offsets[index : index + 2]
            return list(self.targets.values[start:end].tolist())
        return int(self.targets[index])

    def with_negatives(
        self, negatives: npt.ArrayLike, *, num_random: int = 0
    ) -> "RecommendationDataset":
        """Return the same samples with other negatives, for example hard ones.

        Parameters
        ----------
        negatives : int, shape [S, n]
            The samples' negatives, in the order of `user_ids`, such as those that
            `mine_hard_negatives` finds for `targets` and `seen`.
        num_random : int
            How many more to draw per user, as the constructor does with this dataset's `seed` and
            `neg_alpha`, but none of the user's `negatives`.

        Returns
        -------
        RecommendationDataset
            A sample's ``neg_items`` are the user's `negatives`, in their order, followed by the
            random ones. This dataset does not change.

        Raises
        ------
        TypeError, ValueError
            If `negatives` has another shape or type, or contains an id that is not an item with
            metadata, appears twice in its row, or was seen by its user; the message names the user
            and the item. Also if a user has too few items left for `num_random`.

        Examples
        --------
        >>> hard = mine_hard_negatives(
        ...     query, index.table, train.targets, train.seen, 10, valid=index.valid
        ... )  # doctest: +SKIP
        >>> train = train.with_negatives(hard, num_random=89)  # doctest: +SKIP
        """
        shape = as_array("negatives", negatives).shape
        if len(shape) != 2 or shape[0] != len(self):
            raise ValueError(
                f"negatives must be [{len(self)}, n], a row for each of user_ids, got shape {shape}"
            )
        given = as_int64("negatives", negatives)
        num_random = amount("num_random", num_random, 0, MAX_ITEMS)
        weights = self._weights(0)
        for rows in self._samples.chunks():
            seen, users = self._samples.seen_rows(rows), self.user_ids[rows]
            verify_negatives(given[rows], self.num_items, seen, users, weights)
        if num_random:
            drawn = self._draw(num_random, given)
            given = np.concatenate([given, drawn], axis=1)
        other = copy.copy(self)
        other.negatives, other.num_negs = given, given.shape[1]
        return other

    def to_hf(self, conversational: bool = False, *, raw_ids: bool = False) -> "datasets.Dataset":
        """Return all samples as a Hugging Face ``datasets.Dataset``, with the columns of a sample.

        Parameters
        ----------
        conversational : bool
            Whether ``prompt`` is a list of chat messages, to which a trainer applies its model's
            template, instead of a text. The prompt generator must then have ``messages``.
        raw_ids : bool
            Whether items have the ids of the data set's own file; see `export_dataset`.

        Raises
        ------
        ImportError
            If ``datasets`` (extra ``datasets``) is not installed.
        """
        return to_hf(self, conversational, raw_ids=raw_ids)

    def _weights(self, alpha: float) -> np.ndarray | None:
        known = np.fromiter(self.item_metadata, dtype=np.int64)
        return sampling_weights(self.num_items, known, self.item_counts, alpha)

    def _draw(self, num_negs: int, given: np.ndarray | None = None) -> np.ndarray:
        """Draw negatives, none of a sample's `given` ones, and check them, int64 [S, num_negs]."""
        seed, weights = split_seed(self.seed, self.split), self._weights(self.neg_alpha)
        keys = self._samples.keys
        drawn = np.empty((len(self), num_negs), dtype=np.int64)
        # The last samples come first: their keys are those of the users, whom errors then name.
        for rows in self._samples.chunks():
            seen, users = self._samples.seen_rows(rows), self.user_ids[rows]
            if given is not None:
                seen = prepend(given[rows], seen)
            drawn[rows] = sample_negatives(
                self.num_items, seen, num_negs, seed=seed, user_ids=keys[rows], weights=weights
            )
            try:
                verify_negatives(drawn[rows], self.num_items, seen, users, weights)
            except ValueError as error:
                raise RuntimeError(f"{error}: a bug of the sampler, please report it") from error
        return drawn

    def __repr__(self) -> str:
        return (
            f"RecommendationDataset({self.data_name!r}, split={self.split!r}, samples={len(self)}, "
            f"num_items={self.num_items}, num_negs={self.num_negs}, seed={self.seed})"
        )


def _check_range(num_items: int, known: np.ndarray, interactions: Interactions) -> None:
    """Check that every item of the metadata and of the interactions has a row in the table."""
    remedy = (
        f"but num_items is {num_items}; pass num_items=max(item_metadata.keys()) + 1, and check "
        "that both are of the same dataset"
    )
    if known.max() >= num_items:
        raise ValueError(f"item_metadata has item {known.max()}, {remedy}")
    values, offsets = interactions.sequences
    outside = np.flatnonzero(values >= num_items)
    if outside.size:
        user = interactions.user_ids[np.searchsorted(offsets, outside[0], side="right") - 1]
        raise ValueError(f"user {user} has item {values[outside[0]]}, {remedy}")
