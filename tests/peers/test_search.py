"""Other libraries' exact searches find the items that ours finds."""

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from benchmarks.peers import SEARCHERS


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_search(name: str, k: int) -> None:
    """Whole numbers have one score in every order of additions; ties are compared by score."""
    if not SEARCHERS[name].installed:
        pytest.skip(f"{name} is not installed: run `make test-peers`")
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(-8, 9, (17, 33), generator=generator).float()
    table = torch.randint(-8, 9, (501, 33), generator=generator).float()
    scores, ids = SEARCHERS[name].run(query, table, k)()
    ours, _ = rk.topk_catalog(query, table, k)
    np.testing.assert_array_equal(scores, ours.numpy())
    np.testing.assert_array_equal((query @ table.T).gather(1, torch.from_numpy(ids)), ours)
