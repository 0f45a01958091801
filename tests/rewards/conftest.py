"""A real service of fifty items, two of which have the same embedding."""

import pytest
import torch

from rl4rec_kernels import ItemIndex, LocalRetrievalService


@pytest.fixture(scope="session")
def service(encoder) -> LocalRetrievalService:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 384, generator=generator)
    table[0] = 0
    table[21] = table[3]  # two items with one embedding
    return LocalRetrievalService({"toys": ItemIndex.from_embeddings(table)}, encoder)
