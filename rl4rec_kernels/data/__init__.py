"""Datasets: item metadata, prompts, leave-one-out samples with negatives, DataLoaders."""

from rl4rec_kernels.data.dataset import RecommendationDataset, Sample
from rl4rec_kernels.data.export import export_dataset
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.data.labels import read_label, write_label
from rl4rec_kernels.data.loaders import (
    Batch,
    DataLoaders,
    collate_samples,
    create_dataloader,
    create_dataloaders,
)
from rl4rec_kernels.data.loading import load_interactions, load_item_metadata
from rl4rec_kernels.data.prompts import PromptGenerator
from rl4rec_kernels.data.reading import read_interactions
from rl4rec_kernels.data.splits import SPLITS, DatasetReport, split_seed

__all__ = [
    "SPLITS",
    "Batch",
    "DataLoaders",
    "DatasetReport",
    "Interactions",
    "PromptGenerator",
    "RecommendationDataset",
    "Sample",
    "collate_samples",
    "create_dataloader",
    "create_dataloaders",
    "export_dataset",
    "load_interactions",
    "load_item_metadata",
    "read_interactions",
    "read_label",
    "split_seed",
    "write_label",
]
