"""Kernels whose scores are compared with each other: they agree to the bit, pair by pair.

On a GPU, and compiled for one in the emulator; Triton's interpreter adds in another order.
"""

import os
from typing import Any

import pytest
import torch

from rl4rec_kernels.ops import _backends, _hopper, reference
from tests.cuda.conftest import HAS_HOPPER
from tests.cuda.emulated import Emulated, built_library
from tests.gpu.cases import some
from tests.ops.cases import BF16, DTYPES, F16
from tests.ops.catalog_cases import (
    CatalogCase,
    assert_counts,
    assert_same,
    make_catalog_case,
    reference_best,
)
from tests.ops.gpu import DEVICE, Backend, moved
from tests.ops.test_targets import draw_targets, want_counts

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs compiled kernels"
)
TRITON = Backend("triton")
PAIRS = sorted(DTYPES, key=lambda dtypes: dtypes != (BF16, BF16))
every_dtype = pytest.mark.parametrize("dtypes", some(PAIRS, len(PAIRS)), ids=str)


def equal_in_other_tiles(dtypes: Any, shape: tuple[int, int, int]) -> CatalogCase:
    """A case of real numbers in which each item has an equal one, in another place."""
    case = make_catalog_case(shape, dtypes, exact=False, exclusions=True)
    half = len(case.table) // 2
    case.table[half:] = case.table[:half][torch.randperm(half)]
    return case


@every_dtype
@pytest.mark.parametrize("finite", [True, False], ids=["finite", "counted again"])
def test_targets_and_excluded_items_are_scored_as_a_tile(dtypes, finite):
    case = equal_in_other_tiles(dtypes, (5, 260, 72))
    if not finite:
        case.table[-1] = torch.inf
    scores = TRITON.every_score(case.query, case.table)
    counts = TRITON.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(counts, reference.rank_catalog(*case, scores=scores))


@every_dtype
def test_several_targets_and_excluded_items_are_scored_as_a_tile(dtypes):
    case = equal_in_other_tiles(dtypes, (5, 260, 40))
    scores, targets = TRITON.every_score(case.query, case.table), draw_targets(case, most=3)
    counts = TRITON.rank_catalog(case.query, case.table, targets, case.exclusions, valid=case.valid)
    assert_counts(counts, want_counts(case, targets, scores))


@every_dtype
@pytest.mark.parametrize(
    ("num_items", "k", "room"),
    [(150, 150, 8), (702, 5, 8), (702, 100, 1)],
    ids=["all scored", "sampled", "searched again"],
)
def test_the_best_are_sampled_collected_and_searched_with_the_scores_of_targets(
    dtypes, num_items, k, room, monkeypatch
):
    """An item that the sample scores higher than the search would not reach its own bound."""
    module = __import__("rl4rec_kernels.ops.triton.topk_catalog", fromlist=["_ROOM"])
    monkeypatch.setattr(module, "_ROOM", room)
    monkeypatch.setattr(module, "_SPARE", 140)
    case = equal_in_other_tiles(dtypes, (2, num_items, 72))._replace(exclude=None, offsets=None)
    if room == 1:  # equal items are adjacent, so that the sample has one of four
        case = case._replace(table=case.table.repeat_interleave(4, 0)[:num_items])
    scores = TRITON.every_score(case.query, case.table)
    found = TRITON.topk_catalog(case.query, case.table, k, valid=case.valid)
    assert_same(found, reference_best(case, k, scores))


@pytest.fixture
def hopper() -> Any:
    """The raw operators for Hopper, of CUDA C++."""
    if DEVICE == "cuda":
        if not HAS_HOPPER:
            pytest.skip("needs a Hopper GPU")
        torch.ops.load_library(str(built_library()))
        return torch.ops.rl4rec_cuda_raw
    from tests.gpu import compiled

    if compiled.GPU.capability != 90:
        pytest.skip("Triton's kernels are compiled for another GPU")
    return Emulated(part="cuda/sm90").raw


@pytest.mark.parametrize("dtype", some([BF16, F16], 2), ids=str)
@pytest.mark.parametrize("dim", [72, *some([13, 384, 1024], 4, 0)])
def test_tiles_on_hopper_have_the_scores_of_triton(hopper, dim, dtype, monkeypatch):
    module = __import__("rl4rec_kernels.ops.triton.topk_catalog", fromlist=["_SPARE"])
    monkeypatch.setattr(module, "_SPARE", 200)
    case = equal_in_other_tiles((dtype, dtype), (3, 702, dim))
    query, table, valid = (moved(t, DEVICE) for t in (case.query, case.table, case.valid))
    bad = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    arguments = query, table, 5, None, None, valid, None, None, bad
    found = _hopper.topk_catalog(hopper, *arguments)
    want = _backends.kernels("triton").topk_catalog(*arguments)
    assert_same(moved(found, "cpu"), moved(want, "cpu"))
    targets = moved(torch.randint(len(table), (3,)), DEVICE)
    scores = hopper.score_pairs(query, table, None, targets)
    assert torch.equal(scores, TRITON.ops.score_catalog_targets(query, table, targets, None))
