"""The CUDA kernels for catalogs on Hopper: their PTX on the CPU, and on a GPU if there is one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _backends, _hopper, reference
from tests.cuda.conftest import HAS_HOPPER, OnGpu
from tests.cuda.emulated import built_library
from tests.errors import raises
from tests.gpu.cases import EVERY, some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F16, F32
from tests.ops.catalog_cases import (
    CatalogCase,
    assert_counts,
    make_catalog_case,
)

# (B, N, D): ones, no dimensions, around a tile's 256 items, a block's 128 queries and a slice's 64
# dimensions; rows that bulk copies cannot read; more slices than stay in shared memory.
SHAPES = [
    (3, 300, 72),
    (1, 1, 1),
    (130, 257, 64),
    (3, 300, 13),
    (2, 600, 400),
    (2, 255, 0),
    (2, 256, 65),
    (64, 1031, 129),
    (129, 513, 384),
    (257, 256, 8),
    (3, 2503, 16),
]


def counted(raw: Any, case: CatalogCase) -> rk.RankCounts:
    """The counts of a case without bad ids."""
    bad = torch.zeros(1, dtype=torch.int32)
    counts = _hopper.rank_catalog(raw, *case, None, None, None, bad)
    assert not bad.any()
    return rk.RankCounts(*counts)


@pytest.mark.parametrize("exclusions", some([True, False], 2))
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("shape", some(SHAPES, 1, 6), ids=str)
def test_whole_numbers_give_exactly_the_reference(raw, shape, dtype, exclusions):
    if not EVERY and (dtype == F16) != (shape[2] == 13):
        pytest.skip("`make test-gpu-emulated` has all pairs")
    case = make_catalog_case(shape, (dtype, dtype), exclusions=exclusions)
    assert_counts(counted(raw, case), reference.rank_catalog(*case))


@pytest.mark.parametrize("dim", some([72, 13, 400], 3))
def test_copies_and_products_may_be_early(raw, emulated_hopper, dim):
    case = make_catalog_case((3, 300, dim), (BF16, BF16), exclusions=True)
    with emulated_hopper.mode(Mode(False, False, False)):
        counts = counted(raw, case)
    assert_counts(counts, reference.rank_catalog(*case))


@pytest.mark.parametrize("dtype", some([BF16, F16], 2), ids=str)
@pytest.mark.parametrize("dim", [72, *some([13, 400], 3, 0)])
def test_pairs_have_the_scores_of_tiles_to_the_bit(raw, dim, dtype):
    """Each item is a target once: its rank is that among the scores of pairs."""
    case = make_catalog_case((1, 300, dim), (dtype, dtype), exact=False)
    query, table = case.query.expand(300, -1), case.table.clone()
    table[150:] = table[:150][torch.randperm(150)]  # in other columns
    scores = raw.score_pairs(query, table, None, torch.arange(300))
    want = table.double() @ query[0].double()
    torch.testing.assert_close(scores.double(), want, rtol=0, atol=dim * 2.0**-20)
    above, tied = raw.count_catalog(query, table, scores, None)
    assert above.tolist() == (scores > scores[:, None]).sum(1).tolist()
    assert tied.tolist() == (scores == scores[:, None]).sum(1).tolist()
    assert tied.min() >= 2


@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("dim", [13, 72, 384, 1024])
def test_pairs_have_the_scores_of_triton_to_the_bit(dim, dtype):
    """Gradients of log-probabilities score what CUDA C++ has summed with Triton's tiles."""
    torch.ops.load_library(str(built_library()))
    query, table = (torch.randn(500, dim, device="cuda").to(dtype) for _ in range(2))
    targets = torch.randint(500, (500,), device="cuda")
    found = torch.ops.rl4rec_cuda_raw.score_pairs(query, table, None, targets)
    ops = _backends.operators("triton")
    assert torch.equal(found, ops.score_catalog_targets(query, table, targets, None))


LAST = 0x7FFFFFFF  # see ops/triton/topk_catalog.py


def keys_of(scores: Tensor) -> Tensor:
    """Keys of the scores of all items, int64 [B, N]."""
    bits = (scores + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ LAST, bits).long()
    return (ordered << 32) | (LAST - torch.arange(scores.shape[1]))


@pytest.mark.parametrize("dim", some([72, 13, 400], 3))
def test_items_that_reach_a_bound_are_collected(raw, dim):
    case = make_catalog_case((3, 300, dim), (BF16, BF16), exclusions=True)
    table = case.table.index_fill(0, torch.tensor([5]), math.nan)
    scores = reference.score_catalog(case.query, table)[0].float()
    every = torch.where(case.valid & ~scores.isnan(), keys_of(scores), torch.iinfo(torch.int64).min)
    bounds = every.sort(1, descending=True).values[:, 20].clone()  # among equal scores
    none = torch.iinfo(torch.int64).min
    keys, found = torch.full((3, 15), none), torch.zeros(3, dtype=torch.int32)
    if isinstance(raw, OnGpu):
        pytest.skip("the public call is tested there")
    raw.collect_catalog(case.query, table, bounds, case.valid, None, None, None, keys, found)
    assert found.tolist() == [21] * 3  # more than there is room for
    for own, wanted in zip(keys, every, strict=True):
        assert len(set(own.tolist())) == 15
        assert set(own.tolist()) <= set(wanted.sort(descending=True).values[:21].tolist())
    bounds, found = torch.full((3,), torch.iinfo(torch.int64).min + 1), torch.zeros_like(found)
    keys = torch.full((3, 300), torch.iinfo(torch.int64).min)
    bounds, rest = bounds.clamp(min=-0x7F800000 << 32), (None, None, None, None)
    raw.collect_catalog(case.query, table, bounds, *rest, keys, found)
    every = torch.where(scores.isnan(), torch.iinfo(torch.int64).min, keys_of(scores))
    assert torch.equal(keys.sort(1).values, every.sort(1).values)


def test_scores_that_are_not_finite(raw):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]], dtype=BF16)
    targets = torch.arange(4)
    case = CatalogCase(torch.ones(4, 1, dtype=BF16), table, targets, None, None, None)
    counts = counted(raw, case)
    want = [[3, 0, 6], [5, 0, 6], [0, 1, 6], [4, 0, 6]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want


def test_overflow_is_settled_in_float64(raw):
    """Sums beyond float32 on the way to a finite score, and to an infinite one."""
    large = torch.finfo(BF16).max
    table = torch.ones(300, 72, dtype=BF16)
    table[7], table[8, :2], table[9, 3] = large, torch.tensor([large, -large]), math.nan
    query = torch.full((2, 72), 2.0, dtype=BF16)
    case = CatalogCase(query, table, torch.tensor([7, 8]), None, None, None)
    assert_counts(counted(raw, case), reference.rank_catalog(*case))
    query[1, 0] = math.inf  # a score of padding rows is 0 times infinity
    assert_counts(counted(raw, case), reference.rank_catalog(*case))


def test_memory_layout_does_not_matter(raw):
    case = make_catalog_case((3, 260, 24), (BF16, BF16), exact=False)
    want = counted(raw, case)
    for which in ("query", "table")[0 if EVERY else 1 :]:
        tensor = getattr(case, which)
        wide = torch.cat([tensor[:, :1], tensor, tensor[:, :7]], 1)
        for other in (wide[:, 1:25], tensor.t().contiguous().t()):
            assert_counts(counted(raw, case._replace(**{which: other})), want)
    one = case._replace(table=case.table[:1].expand(260, -1))
    assert counted(raw, one).tied.tolist() == [259] * 3


@pytest.mark.parametrize("bad_id", some([260, -1, 1 << 40], 2))
def test_bad_ids_are_reported(raw, bad_id):
    case = make_catalog_case((3, 260, 24), (BF16, BF16), exclusions=True)
    for which in ("targets", "exclude"):
        ids = getattr(case, which).clone()
        ids[1] = bad_id if which == "targets" else 260
        bad = torch.zeros(1, dtype=torch.int32)
        changed = case._replace(**{which: ids})
        counts = _hopper.rank_catalog(raw, *changed, None, None, None, bad)
        assert bad.item() == 1
        if which == "targets":
            assert counts[2].lt(0).tolist() == [False, True, False]
    invalid = case._replace(valid=case.valid.index_fill(0, case.targets[:1], False))
    bad = torch.zeros(1, dtype=torch.int32)
    _hopper.rank_catalog(raw, *invalid, None, None, None, bad)
    assert bad.item() == 1


def test_targets_may_be_elsewhere(raw):
    case = make_catalog_case((3, 260, 24), (BF16, BF16))
    targets, bad = case.targets.index_fill(0, torch.tensor([1]), -1), torch.zeros(1).int()
    scores = reference.score_catalog(case.query, case.table)[0].float()
    given = scores.gather(1, case.targets[:, None])[:, 0]
    arguments = case._replace(targets=targets)
    counts = _hopper.rank_catalog(raw, *arguments, None, None, given, bad)
    want = torch.stack(tuple(reference.rank_catalog(*case)))
    want[1:, 1] += 1  # the item with the target's score is another one
    assert torch.equal(torch.stack(counts), want)
    assert not bad.any()


def test_the_public_calls(raw):
    device = "cuda" if isinstance(raw, OnGpu) else "cpu"
    case = make_catalog_case((3, 300, 72), (BF16, BF16), exclusions=True)
    case = CatalogCase(*(part.to(device) for part in case))
    counts = rk.rank_catalog(*case.arguments, valid=case.valid, backend="cuda")
    assert_counts(counts, reference.rank_catalog(*case))
    got = rk.reward_catalog(*case.arguments, ("ndcg@10",), valid=case.valid, backend="cuda")
    assert torch.equal(got, rk.metrics_from_counts(counts, ("ndcg@10",)))
    targets = case.targets.index_fill(0, torch.tensor([1], device=device), 300)
    with raises(IndexError, "targets", 300):
        rk.rank_catalog(case.query, case.table, targets, backend="cuda")
    for changes, *named in (
        ({"query": case.query.float(), "table": case.table.half()}, "float32", "float16"),
    ):
        arguments = {"query": case.query, "table": case.table, "targets": case.targets} | changes
        with raises(ValueError, "backend='cuda'", "'triton'", *named):
            rk.rank_catalog(**arguments, backend="cuda")


def test_the_raw_operators_check_their_arguments(raw):
    case = make_catalog_case((3, 5, 8), (BF16, BF16))
    scores = torch.zeros(3)
    for arguments, *named in (
        ((case.query.float(), case.table.half(), scores, None), "float32", "bfloat16"),
        ((case.query[:, :7], case.table, scores, None), "query", 7, "table", 8),
        ((case.query, case.table, scores[:2], None), "target_scores", "float32 [3]"),
        ((case.query, case.table, scores, torch.ones(5)), "valid", "bool [5]"),
    ):
        with raises(ValueError, *named):
            raw.count_catalog(*arguments)
    with raises(ValueError, "items", "int64 [3]"):
        raw.score_pairs(case.query, case.table, None, case.targets.int())


def test_empty_dimensions(raw):
    query, table = torch.ones(0, 8, dtype=BF16), torch.ones(5, 8, dtype=BF16)
    assert raw.count_catalog(query, table, torch.zeros(0, dtype=F32), None).shape == (2, 0)
    assert raw.score_pairs(query, table, None, torch.zeros(0).long()).shape == (0,)
    query, scores = torch.ones(2, 8, dtype=BF16), torch.zeros(2)
    assert raw.count_catalog(query, table[:0], scores, None).tolist() == [[0, 0], [0, 0]]
    assert (
        raw.score_pairs(query, table[:0], None, torch.zeros(2).long()).tolist() == [-math.inf] * 2
    )
