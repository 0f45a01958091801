"""Exact searches of other libraries find the same items as ours."""

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from benchmarks.peers import SEARCHERS


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_search(name: str, k: int) -> None:
    """Dot products of whole numbers are exact in any order of additions; ties compare by score."""
    peer = SEARCHERS[name].need()
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(-8, 9, (17, 33), generator=generator).float()
    table = torch.randint(-8, 9, (501, 33), generator=generator).float()
    scores, ids = peer.run(query, table, k)()
    ours, _ = rk.topk_catalog(query, table, k)
    np.testing.assert_array_equal(scores, ours.numpy())
    np.testing.assert_array_equal((query @ table.T).gather(1, torch.from_numpy(ids)), ours)
