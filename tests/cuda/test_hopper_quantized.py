"""Quantized tables on Hopper: the PTX on the CPU, and on a GPU if there is one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _hopper, reference
from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._hopper_sides import operands_of, scales_of_tiles
from rl4rec_kernels.ops._rounding import round_queries
from tests.cuda.conftest import OnGpu
from tests.errors import raises
from tests.gpu.cases import some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F32
from tests.ops.catalog_cases import CatalogCase, assert_counts, make_catalog_case

I8, F8 = torch.int8, torch.float8_e4m3fn

# (B, N, D) and the copy's dtype: several blocks of queries; rows that bulk copies cannot read, and
# that are copied before, in several launches; queries that do not stay in shared memory.
CASES = [
    ((130, 300, 144), I8),
    ((3, 600, 72), F8),
    ((3, 2503, 13), I8),
    ((2, 257, 400), F8),
    ((2, 300, 800), I8),
    ((1, 1, 1), I8),
    ((2, 255, 0), F8),
    ((130, 1031, 65), I8),
]


def quantized(
    shape: tuple[int, int, int], dtype: torch.dtype, **options: Any
) -> tuple[CatalogCase, rk.QuantizedTable, Tensor]:
    """A case, its quantized table, and the exact scores of rounded queries and items."""
    case = make_catalog_case(shape, exact=False, **options)
    table = rk.quantize_table(case.table, dtype)
    query, query_scale, table_scale = round_queries(case.query, table.values, table.row_stats)
    scores = query.double() @ table.values.double().T
    if dtype == I8:  # by the larger scale first, in float32
        scales = (
            query_scale[:, None].maximum(table_scale),
            query_scale[:, None].minimum(table_scale),
        )
        scores = (scores.float() * scales[0] * scales[1]).double()
    else:
        scores = scores * table_scale
    return case, table, scores


def counted(raw: Any, case: CatalogCase, table: rk.QuantizedTable, **source: Tensor) -> Any:
    """The counts of a case without bad ids."""
    bad = torch.zeros(1, dtype=torch.int32)
    arguments = case._replace(table=table.values)
    row_stats, source = table.row_stats, source.get("source")
    counts = _hopper.rank_catalog(raw, *arguments, row_stats, source, None, bad)
    assert not bad.any()
    return rk.RankCounts(*counts)


@pytest.mark.parametrize(("shape", "dtype"), some(CASES, 1, 3), ids=str)
def test_counts(raw, shape, dtype):
    """Of int8 they are exact: sums of int32, scaled as Triton does."""
    case, table, scores = quantized(shape, dtype, exclusions=shape[0] < 100)
    if dtype == F8:  # of whole numbers, so that sums are exact
        case = make_catalog_case(shape, exclusions=True)
        table = rk.QuantizedTable(case.table.to(F8), torch.ones(shape[1], 3), None)
        table.row_stats[:, 0] = 2.0 ** torch.randint(-3, 4, (shape[1],))
        scores = case.query.double() @ (case.table * table.row_stats[:, :1]).double().T
    want = reference.rank_catalog(*case, scores=scores)
    assert_counts(counted(raw, case, table), want)


@pytest.mark.parametrize("dtype", some([F8, I8], 2), ids=str)
@pytest.mark.parametrize("dim", [72, *some([13, 400], 3, 0)])
def test_pairs_have_the_scores_of_tiles_to_the_bit(raw, emulated_hopper, dim, dtype):
    """Each item is a target once: its rank is that among the scores of pairs."""
    case, table, exact = quantized((1, 300, dim), dtype)
    order = torch.randperm(150)  # in other columns
    values, row_stats = (torch.cat([part[:150], part[:150][order]]) for part in table[:2])
    catalog = Catalog(values, None, row_stats, None)
    *sides, query_scale, table_scale = operands_of(case.query.expand(300, -1), catalog)
    scales = query_scale, scales_of_tiles(table_scale)
    scores = raw.score_pairs(*sides, None, torch.arange(300), *scales)
    torch.testing.assert_close(scores[:150].double(), exact[0, :150], rtol=0, atol=dim * 2.0**-20)
    with emulated_hopper.mode(Mode(False, False, False)):
        above, tied = raw.count_catalog(*sides, scores, None, *scales)
    assert above.tolist() == (scores > scores[:, None]).sum(1).tolist()
    assert tied.tolist() == (scores == scores[:, None]).sum(1).tolist()
    assert tied.min() >= 2


@pytest.mark.parametrize("dtype", [I8, F8], ids=str)
def test_scores_that_are_not_finite(raw, dtype):
    """A query of NaN ranks last; scores beyond float32 on the way are scored in float64."""
    case, table, _ = quantized((3, 300, 24), dtype)
    query = case.query.clone()
    query[1, 3] = math.nan
    table.row_stats[7, 0] = table.row_stats[8, 0] = 3e38
    case = case._replace(query=query, targets=torch.tensor([7, 8, 8]))
    counts = counted(raw, case, table)
    assert (counts.above[1], counts.tied[1]) == (299, 0)
    exact = table.values.double() * table.row_stats[:, :1].double()
    rounded = round_queries(query, table.values, table.row_stats)
    scores = rounded[0].double() @ exact.T
    scores = reference.at_ends_of_float32(
        scores * (1.0 if rounded[1] is None else rounded[1][:, None])
    )
    want = reference.rank_catalog(*case, scores=scores)
    assert (counts.above[0], counts.tied[0]) == (want.above[0], want.tied[0])
    assert (counts.above[2], counts.tied[2]) == (want.above[2], want.tied[2])


def test_the_public_calls(raw):
    device = "cuda" if isinstance(raw, OnGpu) else "cpu"
    case = make_catalog_case((3, 300, 72), exclusions=True)
    case = CatalogCase(*(part.to(device) for part in case))
    query, _, targets, exclude = case.arguments
    want = reference.rank_catalog(*case)
    for dtype, refine in ((I8, True), (BF16, False), (F8, False)):
        table = rk.quantize_table(case.table, dtype)
        options = {"valid": case.valid, "refine": refine, "backend": "cuda"}
        counts = rk.rank_catalog(query, table, targets, exclude, **options)
        if dtype != F8:  # whose scales round
            assert_counts(counts, want)
        got = rk.reward_catalog(query, table, targets, exclude, ("ndcg@10",), **options)
        assert torch.equal(got, rk.metrics_from_counts(counts, ("ndcg@10",)))
    half = rk.quantize_table(case.table.half())
    with raises(ValueError, "backend='cuda'", "'triton'", "float32", "float16"):
        rk.rank_catalog(query, half, targets, refine=True, backend="cuda")


def test_the_raw_operators_check_their_arguments(raw):
    query, scale = torch.ones(3, 8, dtype=I8), torch.ones(3)
    table, scales = torch.ones(5, 8, dtype=I8), torch.ones(256)
    targets = torch.zeros(3)
    for arguments, *named in (
        ((query, table, targets, None), "query_scale", "int8"),
        ((query, table, targets, None, scale, scales[:5]), "table_scale", "float32 [256]"),
        ((query, table, targets, None, scale[:2], scales), "query_scale", "float32 [3]"),
        ((query.to(BF16), table, targets, None, None, scales), "bfloat16", "float8"),
        ((query.to(F32), table.to(F32), targets, None, None, scales), "table_scale", "float8"),
    ):
        with raises(ValueError, *named):
            raw.count_catalog(*arguments)
