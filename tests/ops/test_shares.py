"""How the tiles of a catalog are shared among the programs of a GPU."""

import pytest
import torch

from tests.ops.gpu import DEVICE

pytest.importorskip("triton")


@pytest.mark.parametrize("num_queries", [1, 100, 1024, 4096, 40_000])
@pytest.mark.parametrize("num_items", [1, 12_101, 1_000_000])
def test_the_last_round_of_programs_is_full(monkeypatch, num_queries, num_items):
    from rl4rec_kernels.ops.triton import tile
    from rl4rec_kernels.ops.triton.launch import Sides

    monkeypatch.setattr(tile, "processors", lambda device: 132)  # an H100
    row = torch.zeros(1, 1, dtype=torch.float32, device=DEVICE)
    sides = Sides.of(row.expand(num_queries, 1), row.expand(num_items, 1))
    programs, tiles = tile.share_tiles(sides)
    blocks, all_tiles = -(-num_queries // tile.BLOCK), -(-num_items // tile.BLOCK)
    assert programs % blocks == 0
    assert programs // blocks * tiles >= all_tiles > (programs // blocks - 1) * tiles
    rounds = -(-programs // 264)
    share = blocks * all_tiles / (264 * rounds * tiles)  # of the time, all multiprocessors work
    if all_tiles > 50 and blocks * all_tiles > 264 * 50:
        assert share > 0.98
