"""DataLoaders for the three splits."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch.utils.data import DataLoader, RandomSampler

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.data.dataset import RecommendationDataset, Sample
from rl4rec_kernels.data.interactions import load_interactions
from rl4rec_kernels.data.metadata import load_item_metadata
from rl4rec_kernels.data.prompts import DEFAULT_MAX_HISTORY, PromptGenerator
from rl4rec_kernels.data.splits import SPLITS


class Batch(TypedDict):
    """Samples side by side, as plain lists; ``neg_items`` is None where there are no negatives."""

    prompts: list[str]
    targets: list[int]
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
    """Put samples into a batch; the ``collate_fn`` for a DataLoader of one's own.

    A batch without any negatives has ``neg_items`` None, not empty lists: the reward then ranks
    the target among all items, where empty lists would leave it alone and always first.
    """
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
    """Make the DataLoader of one dataset, for example of one with hard negatives.

    Parameters
    ----------
    dataset : RecommendationDataset
        The samples.
    batch_size : int
        Samples a batch.
    shuffle : bool
        Whether each epoch has an order of its own, the same in every run.
    seed : int
        Of the order.
    num_workers : int
        Worker processes; the order does not depend on them.

    Returns
    -------
    DataLoader
        Its batches are `Batch`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.
    """
    seed = whole_number("seed", seed, 0)
    # The sampler has a generator of its own, because a DataLoader draws seeds for its workers from
    # its generator: the order must not depend on how many there are.
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    num_workers = whole_number("num_workers", num_workers, 0)
    return DataLoader(
        dataset,
        batch_size=whole_number("batch_size", batch_size, 1),
        sampler=order if shuffle else None,
        generator=torch.Generator().manual_seed(seed),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_samples,
    )


def create_dataloaders(args: Any) -> DataLoaders:
    """Make the DataLoaders of all three splits.

    Parameters
    ----------
    args : object
        Read attributes, as of an ``argparse.Namespace``; others are left alone:

        - ``dataset_name`` (required): name of the dataset;
        - ``data_dir`` (None): see `load_item_metadata`;
        - ``num_negs`` (0) and ``num_items`` (None): see `RecommendationDataset`;
        - ``eval_num_negs`` (``num_negs``): negatives of valid and test. 0 ranks their targets among
          all items, which is what published results should use;
        - ``neg_alpha`` (0.0): see `RecommendationDataset`;
        - ``batch_size`` (32);
        - ``seed`` (42): of the negatives, and of the order of the training samples;
        - ``num_workers`` (0): worker processes of each DataLoader;
        - ``max_history`` (20): items shown in a prompt, None for all.

    Returns
    -------
    DataLoaders
        A tuple ``(train, valid, test, prompt_generator, item_metadata)``. Batches are `Batch`.
        Training samples are shuffled, differently in every epoch and equally in every run,
        with any number of workers.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        As `RecommendationDataset` and `load_item_metadata`.
    """
    name = getattr(args, "dataset_name", None)
    if name is None:
        raise ValueError("args has no dataset_name; pass argparse.Namespace(dataset_name=…, …)")
    data_dir = getattr(args, "data_dir", None)
    seed = whole_number("args.seed", getattr(args, "seed", 42), 0)
    batch_size = whole_number("args.batch_size", getattr(args, "batch_size", 32), 1)
    num_workers = whole_number("args.num_workers", getattr(args, "num_workers", 0), 0)
    num_negs = whole_number("args.num_negs", getattr(args, "num_negs", 0), 0)
    eval_num_negs = getattr(args, "eval_num_negs", None)

    item_metadata = load_item_metadata(name, data_dir)
    max_history = getattr(args, "max_history", DEFAULT_MAX_HISTORY)
    generator = PromptGenerator(item_metadata, max_history=max_history)
    interactions = load_interactions(name, data_dir)
    train, valid, test = (
        RecommendationDataset(
            data_name=name,
            item_metadata=item_metadata,
            prompt_generator=generator,
            split=split,
            num_negs=num_negs if split == "train" or eval_num_negs is None else eval_num_negs,
            num_items=getattr(args, "num_items", None),
            seed=seed,
            neg_alpha=getattr(args, "neg_alpha", 0.0),
            interactions=interactions,
        )
        for split in SPLITS
    )

    def loader(dataset: RecommendationDataset, shuffle: bool) -> DataLoader[Sample]:
        return create_dataloader(
            dataset, batch_size=batch_size, shuffle=shuffle, seed=seed, num_workers=num_workers
        )

    return DataLoaders(
        loader(train, True), loader(valid, False), loader(test, False), generator, item_metadata
    )
