"""How a `RecommendationDataset` is made from files, frames and tables."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from rl4rec_kernels._utils.checks import (
    as_path,
    shown,
)
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.data.labels import Id
from rl4rec_kernels.data.layouts import LayoutName
from rl4rec_kernels.data.log import Duplicates
from rl4rec_kernels.data.prompts import MakesPrompts, PromptGenerator
from rl4rec_kernels.data.reading import read_interactions
from rl4rec_kernels.data.samples import SplitBy
from rl4rec_kernels.data.splits import SplitName, split_index
from rl4rec_kernels.data.tables import Source
from rl4rec_kernels.data.times import Time

if TYPE_CHECKING:
    import datasets
    import pandas


class SourceOptions(TypedDict, total=False):
    """The options of `read_interactions` and of `RecommendationDataset.from_interactions`."""

    layout: LayoutName | None
    user: str | None
    item: str | None
    time: str | None
    rating: str | None
    items: "Source | Mapping[Id, Mapping[str, object]] | None"
    item_id: str | None
    item_fields: Sequence[str] | None
    columns: Sequence[str] | None
    separator: str | None
    time_format: str | None
    min_rating: float | None
    duplicates: Duplicates
    k_core: int | tuple[int, int]
    all_items: bool
    name: str | None
    show_progress: bool | None
    prompt_generator: MakesPrompts | None
    num_negs: int
    num_items: int | None
    seed: int
    neg_alpha: float
    split_by: SplitBy
    ratios: Sequence[float]
    cuts: Sequence[Time] | None
    augment: bool


class FromSource:
    """The class methods of `RecommendationDataset` that read files, frames and tables."""

    @classmethod
    def from_interactions(
        cls,
        interactions: Interactions,
        split: SplitName,
        *,
        prompt_generator: MakesPrompts | None = None,
        num_negs: int = 0,
        num_items: int | None = None,
        seed: int = 42,
        neg_alpha: float = 0.0,
        split_by: SplitBy = "leave_one_out",
        ratios: Sequence[float] = (0.8, 0.1, 0.1),
        cuts: Sequence[Time] | None = None,
        augment: bool = False,
    ) -> Self:
        """Make one split of what `read_interactions` read, which has its own items.

        Parameters
        ----------
        interactions : Interactions
            The interactions, with ``item_metadata``.
        split, num_negs, num_items, seed, neg_alpha, split_by, ratios, cuts, augment
            As for the class. `num_items` is by default that of the items.
        prompt_generator : callable, optional
            Default: ``PromptGenerator(interactions.item_metadata)``.
        """
        if not isinstance(interactions, Interactions) or not interactions.item_metadata:
            raise TypeError(
                "interactions must be what read_interactions returns, with items, got "
                f"{shown(interactions)}"
            )
        metadata = interactions.item_metadata
        make: Callable[..., Self] = cls
        return make(
            interactions.name,
            metadata,
            PromptGenerator(metadata) if prompt_generator is None else prompt_generator,
            split,
            num_negs,
            max(metadata) + 1 if num_items is None else num_items,
            seed,
            neg_alpha=neg_alpha,
            interactions=interactions,
            split_by=split_by,
            ratios=ratios,
            cuts=cuts,
            augment=augment,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        split: SplitName = "train",
        **options: Unpack[SourceOptions],
    ) -> Self:
        """Read a file of separated values, plain or as ``.gz``; see `from_source`."""
        return cls.from_source(as_path("path", path), split, **options)

    @classmethod
    def from_jsonl(
        cls,
        path: str | os.PathLike[str],
        split: SplitName = "train",
        **options: Unpack[SourceOptions],
    ) -> Self:
        """Read a file of one JSON object per line, plain or as ``.gz``; see `from_source`."""
        return cls.from_source(as_path("path", path), split, **options)

    @classmethod
    def from_pandas(
        cls,
        frame: "pandas.DataFrame",
        split: SplitName = "train",
        **options: Unpack[SourceOptions],
    ) -> Self:
        """Read a pandas DataFrame of one interaction per row; see `from_source`."""
        if not hasattr(frame, "iloc"):
            raise TypeError(f"frame must be a pandas DataFrame, got {shown(frame)}")
        return cls.from_source(frame, split, **options)

    @classmethod
    def from_hf(
        cls,
        dataset: "datasets.Dataset",
        split: SplitName = "train",
        **options: Unpack[SourceOptions],
    ) -> Self:
        """Read a Hugging Face ``datasets.Dataset``; see `from_source`."""
        parts = list(dataset.values()) if isinstance(dataset, Mapping) else [dataset]
        if not any(hasattr(part, "column_names") for part in parts):
            raise TypeError(f"dataset must be a datasets.Dataset, got {shown(dataset)}")
        return cls.from_source(dataset, split, **options)

    @classmethod
    def from_source(
        cls,
        source: "Source",
        split: SplitName = "train",
        **options: Unpack[SourceOptions],
    ) -> Self:
        """Make one split of data in any form that `read_interactions` reads.

        For more than one split, call that function once, and `from_interactions` for each.

        Parameters
        ----------
        source, **options
            As for `read_interactions`, and as for `from_interactions`.
        split : str
            ``"train"``, ``"valid"`` or ``"test"``.

        Examples
        --------
        >>> RecommendationDataset.from_csv(
        ...     "ratings.csv", "train", items="movies.csv", k_core=5, num_negs=99
        ... )  # doctest: +SKIP
        """
        split_index(split)
        names = inspect.signature(cls.from_interactions).parameters
        given: dict[str, Any] = {**options}
        own = {name: given.pop(name) for name in list(given) if name in names}
        return cls.from_interactions(read_interactions(source, **given), split, **own)
