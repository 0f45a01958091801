"""Ranking among candidates by an int8 copy gives exactly the counts of its source."""

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels, rank_candidates, rank_candidates_refined, use_cpu_level
from tests.errors import raises


def make_case(rows: int, columns: int, dim: int, seed: int = 0):
    """Queries and candidates with padding, repeats, equal items, and items that nearly tie."""
    random = torch.Generator().manual_seed(seed)
    table = torch.randn(400, dim, generator=random, dtype=torch.float32)
    table[100:200] = table[:100]
    table[200:300] = table[:100] * (1 + 2e-7)
    query = torch.randn(rows, dim, generator=random, dtype=torch.float32)
    ids = torch.randint(0, 400, (rows, columns), generator=random)
    ids[torch.rand(ids.shape, generator=random) < 0.1] = -1
    ids[:, 0] = torch.randint(0, 400, (rows,), generator=random)
    ids[:, -1] = ids[:, 0]
    return query, table, ids


def assert_same(query, table, ids, dtype=torch.float32):
    copy = rk.quantize_table(table.to(dtype))
    for got, want in zip(
        rank_candidates_refined(query, copy, ids),
        rank_candidates(query, copy.source, ids),
        strict=True,
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("level", [level for level in cpu_levels() if level != "amx_emulated"])
@pytest.mark.parametrize("dim", [1, 31, 96, 384, 5000])
def test_counts_are_those_of_the_source(level, dim):
    with use_cpu_level(level):
        assert_same(*make_case(9, 100, dim))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ragged_rows_of_any_length(dtype):
    query, table, ids = make_case(40, 1300, 48)
    rows = [row[row >= 0][: 1 + 37 * i].tolist() for i, row in enumerate(ids)]
    assert_same(query, table, rk.RaggedIds.from_lists(rows), dtype)


@pytest.mark.parametrize("scale", [1e-44, 1e-22, 1e12, 1e17, 1e25, torch.inf, torch.nan])
def test_queries_of_any_size(scale):
    query, table, ids = make_case(8, 60, 64)
    query[::2] *= scale
    assert_same(query, table, ids)
    assert_same(query, table * 1e-15, ids)


def test_rows_of_zeros_tie():
    query, table, ids = make_case(8, 60, 64)
    assert_same(query, table * (torch.arange(400) % 3 == 0)[:, None], ids)
    assert_same(query * 0, table, ids)


def test_opcheck():
    query, table, ids = make_case(3, 8, 20)
    copy = rk.quantize_table(table)
    arguments = (query, table, ids, None, copy.values, copy.row_stats)
    torch.library.opcheck(torch.ops.rl4rec.rank_candidates_refined.default, arguments)


def test_what_is_wrong_is_named():
    query, table, ids = make_case(3, 8, 20)
    with raises(ValueError, "source", "keep_source"):
        rank_candidates_refined(query, rk.quantize_table(table, keep_source=False), ids)
    with raises(ValueError, "values", "int8", 400, 20):
        rank_candidates_refined(query, rk.quantize_table(table, torch.bfloat16), ids)
    ids[1, 2] = 400
    with raises(IndexError, "candidates", 400, "row 1"):
        rank_candidates_refined(query, rk.quantize_table(table), ids)
