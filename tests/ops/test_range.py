"""Scores at the ends of float32's range: every operator, level and backend has the same rule."""

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels, reference, use_cpu_level
from tests.gpu.cases import some
from tests.ops.cases import BF16, DTYPES, F32
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


class Extremes(NamedTuple):
    """Embeddings of extreme values, their counts in float64, and which of these are certain."""

    query: Tensor
    table: Tensor
    targets: Tensor
    candidates: Tensor
    decided: Tensor
    want: rk.RankCounts

    def check(self, counts: rk.RankCounts) -> None:
        some = (rk.RankCounts(*(c[self.decided] for c in x)) for x in (counts, self.want))
        assert_counts(*some)
        assert (counts.tied >= 0).all()
        assert (counts.above + counts.tied < counts.total).all()

    def check_all(self, **backend: str) -> None:
        query, table, targets, candidates = self[:4]
        self.check(rk.rank_catalog(query, table, targets, **backend))
        self.check(rk.rank_candidates(query, table, candidates, **backend))
        scores, ids = rk.topk_catalog(query, table, 7, **backend)
        assert not scores.isnan().any()
        assert (scores.diff(dim=1).nan_to_num(0) <= 0).all()  # inf - inf is NaN
        found = rk.score_candidates(query, table, ids, **backend)
        for one, other in ((scores > 0, found > 0), (scores.isinf(), found.isinf())):
            assert torch.equal(one, other)


KINDS = [("all finite", "any"), ("any", "scaled"), ("scaled", "scaled")]
SHAPES = [(33, 70, 3), (9, 131, 33), (5, 40, 65)]


def draw_extremes(kinds: Any, dtypes: Any, shape: tuple[int, int, int]) -> Extremes:
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
    return Extremes(query, table, targets, candidates, rows_decided, want)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_are_those_of_float64(kinds, dtypes, shape):
    case = draw_extremes(kinds, dtypes, shape)
    for level in cpu_levels():
        with use_cpu_level(level):
            case.check_all()


@pytest.mark.parametrize(("kinds", "dtypes"), some([*itertools.product(KINDS, DTYPES)], 4), ids=str)
def test_counts_of_triton_are_those_of_float64(kinds, dtypes):
    draw_extremes(kinds, dtypes, SHAPES[0]).check_all(backend="triton")


@pytest.mark.parametrize(
    ("kinds", "dtypes", "shape"), some([*itertools.product(KINDS, DTYPES, SHAPES)], 7), ids=str
)
def test_counts_of_cuda_are_those_of_float64(kinds, dtypes, shape, emulated):
    case, bad = draw_extremes(kinds, dtypes, shape), torch.zeros(1, dtype=torch.int32)
    counts = emulated.raw.rank_candidates(case.query, case.table, case.candidates, None, bad)
    case.check(rk.RankCounts(*counts))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product((*cpu_levels(), "reference"), (F32, BF16)),
        *some([("triton", BF16), ("triton", F32)], 2),
    ],
    ids=str,
)
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


COPIES = [
    *itertools.product(
        (torch.int8, BF16), ((1e37, 1e15), (1e-30, 1e-14), (1e-44, 1e17), (1e30, 1e-44))
    )
]


@pytest.mark.parametrize(("dtype", "scales"), COPIES, ids=str)
def test_scales_of_copies_neither_overflow_nor_vanish(level, dtype, scales):
    check_scales(dtype, scales)


@pytest.mark.parametrize(("dtype", "scales"), some(COPIES, 5), ids=str)
def test_scales_of_copies_neither_overflow_nor_vanish_in_triton(dtype, scales):
    check_scales(dtype, scales, backend="triton")


def check_scales(dtype: torch.dtype, scales: tuple[float, float], **backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(n, 33, generator=generator) for n in (5, 70))
    query, table = query.round() * scales[0], table.round() * scales[1]
    table[3] = 0
    copy = rk.quantize_table(table, dtype)
    counts = rk.rank_catalog(query, copy, torch.arange(5), **backend)
    best, ids = rk.topk_catalog(query, copy, 70, **backend)
    assert (counts.tied >= 0).all()
    assert not best.isnan().any()
    assert (ids >= 0).all() == (best > -INF).all()
    assert best[ids == 3].tolist() == [0.0] * 5  # 0, not NaN, also if a scale is huge


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
