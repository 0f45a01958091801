"""Scores at the ends of float32's range: every operator, level and backend has the same rule."""

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels, reference, use_cpu_level
from tests.ops.cases import BF16, DTYPES, F32, Case
from tests.ops.catalog_cases import assert_counts, every_score

INF, NAN = torch.inf, torch.nan
VALUES = [0.0, 1.0, -2.0, 1e-39, -1e-42, 1e-30, 1e18, -1e30, 3e38, -3e38, INF, -INF, NAN]


def draw(kind: str, rows: int, dim: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(rows, dim, generator=generator)
    one_of = torch.randint(len(VALUES), (rows, dim), generator=generator)
    if kind == "all finite":
        return torch.tensor(VALUES)[one_of % (len(VALUES) - 3)]
    if kind == "scaled":
        scales = torch.tensor([1.0, 1e-19, 1e-38, 1e19, 1e38])
        return values * scales[one_of[:, :1] % 5]
    some = torch.rand(rows, dim, generator=generator) < 0.08
    return torch.where(some, torch.tensor(VALUES)[one_of], values)


def decided(query: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """The queries whose counts no rounding of float32 sums could change, bool [B]."""
    scores = reference.score_catalog(query, table)[0]
    products = query.double()[:, None] * table.double()
    bound = products.abs().sum(2) * (query.shape[1] + 2) * 2.0**-23 + query.shape[1] * 2.0**-148
    # A finite sum that may exceed float32 by rounding is open as well.
    low, high = (reference.at_ends_of_float32(products.sum(2) + sign * bound) for sign in (-1, 1))
    low, high = (torch.where(bound.isfinite(), end, scores) for end in (low, high))
    own, own_low, own_high = (end.gather(1, targets[:, None]) for end in (scores, low, high))
    certain = (low > own_high) | (high < own_low)
    same = (low == high) & (own_low == own_high) & (low == own_low)
    equal = (table == table[targets][:, None]).all(2)
    return (certain | same | equal | scores.isnan() | own.isnan()).all(1)


@pytest.mark.parametrize("kinds", [("all finite", "any"), ("any", "scaled"), ("scaled", "scaled")])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(33, 70, 3), (9, 131, 33), (5, 40, 65)])
def test_counts_are_those_of_float64(kinds, dtypes, shape, emulated):
    rows, num_items, dim = shape
    generator = torch.Generator().manual_seed(num_items)
    query = draw(kinds[0], rows, dim, generator).to(dtypes[0])
    table = draw(kinds[1], num_items, dim, generator).to(dtypes[1])
    table[num_items // 2 :] = table[: num_items - num_items // 2].clone()  # every item has an equal
    targets = torch.randint(num_items, (rows,), generator=generator)
    candidates = torch.cat([targets[:, None], torch.arange(num_items).expand(rows, -1)], 1)
    rows_decided = decided(query, table, targets)
    assert rows_decided.float().mean() > 0.25
    want = reference.rank_catalog(query, table, targets)

    def check(counts: rk.RankCounts) -> None:
        assert_counts(*(rk.RankCounts(*(c[rows_decided] for c in x)) for x in (counts, want)))
        assert (counts.tied >= 0).all()
        assert (counts.above + counts.tied < counts.total).all()

    def check_all(**backend: str) -> None:
        check(rk.rank_catalog(query, table, targets, **backend))
        check(rk.rank_candidates(query, table, candidates, **backend))
        scores, ids = rk.topk_catalog(query, table, 7, **backend)
        assert not scores.isnan().any()
        assert (scores.diff(dim=1).nan_to_num(0) <= 0).all()  # inf - inf is NaN
        found = rk.score_candidates(query, table, ids, **backend)
        for one, other in ((scores > 0, found > 0), (scores.isinf(), found.isinf())):
            assert torch.equal(one, other)

    for level in cpu_levels():
        with use_cpu_level(level):
            check_all()
    if dim == 3:  # the interpreter is slow
        check_all(backend="triton")
    bad = torch.zeros(1, dtype=torch.int32)
    case = Case(query, table, candidates, None)
    check(rk.RankCounts(*emulated.raw.rank_candidates(*case, bad)))


@pytest.mark.parametrize("name", [*cpu_levels(), "triton", "reference"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_what_a_score_is(name, dtype):
    """inf beyond the range, NaN only for NaN and infinities that cancel, subnormals as they are."""
    table = torch.tensor(
        [[2e38, 2e38], [2e38, -2e38], [3e38, -1e38], [-3e38, -3e38], [INF, -3e38], [INF, -INF]]
    ).to(dtype)
    subnormal = torch.tensor([[1e-39, 0.0], [1e-39, 1e-39], [0.0, 0.0]]).to(dtype)
    query = torch.tensor([[2.0, 2.0], [1e30, 1.0]]).to(dtype)
    backend = {} if name in cpu_levels() else {"backend": name}
    with use_cpu_level(name if name in cpu_levels() else "portable"):
        scores = rk.score_candidates(query, table, torch.arange(6).repeat(2, 1), **backend)
        counts = [rk.rank_catalog(query, table, torch.full((2,), i), **backend) for i in range(6)]
        orders = [
            rk.topk_catalog(q, subnormal, 3, **backend)[1].tolist()
            for q in (query[:1], torch.full((1, 2), 2.0**100).to(dtype))
        ]
    large = 2 * (table[2, 0].float() + table[2, 1].float()).item()
    assert scores[0].tolist()[:5] == [INF, 0.0, INF if large > 3.5e38 else large, -INF, INF]
    assert scores[1].tolist()[:5] == [INF, INF, INF, -INF, INF]
    assert scores[:, 5].isnan().all()
    assert [tuple(int(c[1]) for c in count) for count in counts[:4]] == [(0, 3, 6)] * 3 + [
        (4, 0, 6)
    ]
    assert tuple(int(c[1]) for c in counts[5]) == (5, 0, 6)
    assert orders == [[[1, 0, 2]]] * 2


@pytest.mark.parametrize("dtype", [torch.int8, BF16], ids=str)
@pytest.mark.parametrize("scales", [(1e37, 1e15), (1e-30, 1e-14), (1e-44, 1e17), (1e30, 1e-44)])
def test_scales_of_copies_neither_overflow_nor_vanish(dtype, scales):
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(n, 33, generator=generator) for n in (5, 70))
    query, table = query.round() * scales[0], table.round() * scales[1]
    table[3] = 0
    copy = rk.quantize_table(table, dtype)
    targets = torch.arange(5)
    for name in [*cpu_levels(), "triton"]:
        backend = {} if name in cpu_levels() else {"backend": name}
        with use_cpu_level(name if name in cpu_levels() else "portable"):
            counts = rk.rank_catalog(query, copy, targets, **backend)
            best, ids = rk.topk_catalog(query, copy, 70, **backend)
        assert (counts.tied >= 0).all(), name
        assert not best.isnan().any(), name
        assert (ids >= 0).all() == (best > -INF).all(), name
        assert best[ids == 3].tolist() == [0.0] * 5, name  # 0, not NaN, also if a scale is huge


def test_a_tie_stays_one_in_every_part_of_the_table(level):
    """The score of a pair is the same as a target's, in a shard and by itself."""
    generator = torch.Generator().manual_seed(1)
    query, table = (draw("any", n, 35, generator).to(BF16) for n in (20, 60))
    targets = torch.randint(60, (20,), generator=generator)
    scores = every_score(query, table)
    want = reference.rank_catalog(query, table, targets, scores=scores)
    assert_counts(rk.rank_catalog(query, table, targets), want)
    own = scores.gather(1, targets[:, None])[:, 0]
    parts = torch.zeros(3, 20, dtype=torch.int64)
    for first in (0, 20, 40):
        here = torch.where((targets >= first) & (targets < first + 20), targets - first, -1)
        part = table[first : first + 20]
        rest = (None,) * 5
        parts += torch.stack(torch.ops.rl4rec.rank_catalog(query, part, here, *rest, own))
    assert parts[1].tolist() == want.tied.tolist()
    finite = ~own.isnan()
    assert parts[0][finite].tolist() == want.above[finite].tolist()


def test_subnormal_numbers_count_although_torch_flushes_them(level):
    query, table = torch.ones(1, 3), 1e-39 * torch.arange(9.0)[:, None].expand(9, 3)
    want = rk.topk_catalog(query, table, 9)[1]
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush")
    try:
        assert torch.equal(rk.topk_catalog(query, table, 9)[1], want)
    finally:
        torch.set_flush_denormal(False)
    assert want.tolist() == [list(range(8, -1, -1))]


def test_gradients_of_extreme_values_are_numbers_or_infinite(level):
    generator = torch.Generator().manual_seed(2)
    for dtype in (F32, BF16):
        query, table = (draw("any", n, 7, generator).to(dtype).requires_grad_() for n in (4, 9))
        scores = rk.score_candidates(query, table, torch.arange(9).repeat(4, 1))
        scores.sum().backward()
        assert query.grad.shape == query.shape
        assert table.grad.shape == table.shape
