"""DataLoaders of the three splits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch.utils.data import DataLoader, RandomSampler

from rl4rec_kernels._utils.checks import (
    MAX_COUNT,
    MAX_PROCESSES,
    MAX_SEED,
    amount,
    flag,
    shown,
    text,
)
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.dataset import RecommendationDataset, Sample
from rl4rec_kernels.data.loading import load_interactions, load_item_metadata
from rl4rec_kernels.data.prompts import DEFAULT_MAX_HISTORY, PromptGenerator
from rl4rec_kernels.data.splits import SPLITS


class Batch(TypedDict):
    """A batch of samples as lists; ``neg_items`` is None if there are no negatives."""

    prompts: list[str]
    targets: list[int | list[int]]
    histories: list[list[int]]
    user_ids: list[int]
    neg_items: list[list[int]] | None


class DataLoaders(NamedTuple):
    """What `create_dataloaders` returns; each loader's dataset is its ``.dataset``."""

    train: DataLoader[Sample]
    valid: DataLoader[Sample]
    test: DataLoader[Sample]
    prompt_generator: PromptGenerator
    item_metadata: dict[int, dict[str, Any]]


def collate_samples(samples: Sequence[Sample]) -> Batch:
    """Collate samples into a batch; the ``collate_fn`` for your own DataLoader.

    A batch without negatives has ``neg_items`` None, not empty lists: rewards then rank the target
    among all items, whereas with empty lists it would have no competitors and always rank first.
    """
    rows = as_list(samples)
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(f"samples must be a list of samples of a dataset, got {shown(samples)}")
    negatives = [sample["neg_items"] for sample in samples]
    return {
        "prompts": [sample["prompt"] for sample in samples],
        "targets": [sample["target"] for sample in samples],
        "histories": [sample["history"] for sample in samples],
        "user_ids": [sample["user_id"] for sample in samples],
        "neg_items": negatives if any(negatives) else None,
    }


def create_dataloader(
    dataset: RecommendationDataset,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 42,
    num_workers: int = 0,
) -> DataLoader[Sample]:
    """Create the DataLoader of one dataset, for example of one with hard negatives.

    Parameters
    ----------
    dataset : RecommendationDataset
        The samples.
    batch_size : int
        Samples per batch.
    shuffle : bool
        Whether each epoch has its own order, which is the same in every run.
    seed : int
        Seed of the order.
    num_workers : int
        Worker processes, at most 1,024; the order does not depend on them.

    Returns
    -------
    DataLoader
        Its batches are `Batch`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.
    """
    seed = amount("seed", seed, 0, MAX_SEED)
    is_other = isinstance(dataset, str | bytes | Mapping) or hasattr(dataset, "tolist")
    if is_other or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"dataset must be a RecommendationDataset, got {shown(dataset)}")
    # The sampler has its own generator, since a DataLoader draws its workers' seeds from the
    # loader's generator, and the order must not depend on the number of workers.
    order = _Order(dataset, generator=torch.Generator("cpu").manual_seed(seed))
    num_workers = amount("num_workers", num_workers, 0, MAX_PROCESSES)
    return _Loader(
        dataset,
        batch_size=amount("batch_size", batch_size, 1),
        sampler=order if flag("shuffle", shuffle) else None,
        generator=torch.Generator("cpu").manual_seed(seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_samples,
    )


class _Order(RandomSampler):
    """Draws on the CPU, where its generator is, whatever torch's default device is."""

    def __iter__(self) -> Iterator[int]:
        with torch.device("cpu"):
            return iter(list(super().__iter__()))


class _Loader(DataLoader[Sample]):
    """Draws the seeds of its workers on the CPU."""

    def __iter__(self) -> Any:
        with torch.device("cpu"):
            return super().__iter__()


def create_dataloaders(args: object) -> DataLoaders:
    """Create the DataLoaders of all three splits.

    Parameters
    ----------
    args : object
        An object with these attributes, such as an ``argparse.Namespace``; others are ignored:

        - ``dataset_name`` (required): name of the dataset;
        - ``data_dir`` (None): see `load_item_metadata`;
        - ``num_negs`` (0) and ``num_items`` (None): see `RecommendationDataset`;
        - ``eval_num_negs`` (``num_negs``): negatives of valid and test. 0 ranks their targets among
          all items, as published results should;
        - ``neg_alpha`` (0.0): see `RecommendationDataset`;
        - ``split_by``, ``ratios`` and ``cuts``: see `RecommendationDataset`;
        - ``augment`` (False): one sample per target in train;
        - ``batch_size`` (32);
        - ``seed`` (42): of the negatives, and of the order of the training samples;
        - ``num_workers`` (0): worker processes per DataLoader;
        - ``max_history`` (20): items shown in a prompt, None for all.

    Returns
    -------
    DataLoaders
        A tuple ``(train, valid, test, prompt_generator, item_metadata)``. Batches are `Batch`.
        Training samples are shuffled differently in every epoch, but equally in every run, with
        any number of workers.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        See `RecommendationDataset` and `load_item_metadata`.
    """

    def integer(name: str, default: int, minimum: int = 0, maximum: int = MAX_COUNT) -> int:
        return amount(f"args.{name}", getattr(args, name, default), minimum, maximum)

    name = getattr(args, "dataset_name", None)
    if name is None:
        raise ValueError("args has no dataset_name; pass argparse.Namespace(dataset_name=…, …)")
    data_dir = getattr(args, "data_dir", None)
    seed, num_negs = integer("seed", 42, 0, MAX_SEED), integer("num_negs", 0)
    options = {
        "batch_size": integer("batch_size", 32, 1),
        "num_workers": integer("num_workers", 0, 0, MAX_PROCESSES),
    }
    eval_num_negs = getattr(args, "eval_num_negs", None)

    text("args.dataset_name", name)
    item_metadata = load_item_metadata(name, data_dir)
    rule = {
        option: getattr(args, option)
        for option in ("split_by", "ratios", "cuts")
        if hasattr(args, option)
    }
    max_history = getattr(args, "max_history", DEFAULT_MAX_HISTORY)
    generator = PromptGenerator(item_metadata, max_history=max_history)
    interactions = load_interactions(name, data_dir)
    train, valid, test = (
        create_dataloader(
            RecommendationDataset(
                name,
                item_metadata,
                generator,
                split,
                num_negs if split == "train" or eval_num_negs is None else eval_num_negs,
                getattr(args, "num_items", None),
                seed,
                neg_alpha=getattr(args, "neg_alpha", 0.0),
                interactions=interactions,
                augment=split == "train" and flag("args.augment", getattr(args, "augment", False)),
                **rule,
            ),
            shuffle=split == "train",
            seed=seed,
            **options,
        )
        for split in SPLITS
    )
    return DataLoaders(train, valid, test, generator, item_metadata)
