"""Embeddings that several benchmarks share."""

import os

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.data.splits import choose_rows
from rl4rec_kernels.index.cache import cached_index


def gaussian(
    batch: int, num_items: int, dim: int, *columns: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, a table, and one target per query, or `columns` candidates."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batch, dim, generator=generator).to(dtype)
    table = torch.randn(num_items, dim, generator=generator).to(dtype)
    return query, table, torch.randint(num_items, (batch, *columns), generator=generator)


def beauty(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Users and items of Amazon Beauty, encoded by the packaged MiniLM, and the next items."""
    if not (os.environ.get("RL4REC_DATA") and os.path.isdir(os.environ["RL4REC_DATA"] + "/beauty")):
        pytest.skip("needs Amazon Beauty: set RL4REC_DATA to the directory that contains beauty/")
    items = rk.load_item_metadata("beauty")
    test = rk.RecommendationDataset("beauty", items, rk.PromptGenerator(items), "test")
    rows = choose_rows(len(test), batch, seed=0)
    encoder = rk.Encoder("minilm")
    index = cached_index("beauty", items, encoder)
    query = encoder.encode_queries([recent_titles(items, test.history(int(i))) for i in rows])
    return query, index.table.clone(), torch.from_numpy(test.targets[rows])
