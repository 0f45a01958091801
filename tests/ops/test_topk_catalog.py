"""The best items of the whole catalog, every CPU level, against their definition."""

import math

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import reference
from tests.ops.cases import BF16, DTYPES, F16, F32
from tests.ops.catalog_cases import (
    ALL,
    CatalogCase,
    catalog_label,
    every_score,
    make_catalog_case,
)
from tests.ops.test_rank_catalog import near_ties


def best(case: CatalogCase, k: int, table: Tensor | rk.QuantizedTable | None = None, **options):
    table = case.table if table is None else table
    return rk.topk_catalog(case.query, table, k, case.exclusions, valid=case.valid, **options)


def reference_best(case: CatalogCase, k: int, scores: Tensor | None = None):
    found, ids = reference.topk_catalog(case.query, case.table, k, *case[3:], scores=scores)
    return found.float(), ids


def assert_same(got, want) -> None:
    assert got[0].dtype == torch.float32
    assert got[1].dtype == torch.int64
    assert got[1].tolist() == want[1].tolist()
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize("spec", ALL, ids=catalog_label)
def test_whole_numbers_give_exactly_the_reference(level, spec):
    case = make_catalog_case(**spec)  # ties everywhere
    num_items = case.table.shape[0]
    for k in {1, min(7, num_items), (num_items + 1) // 2, num_items}:
        assert_same(best(case, k), reference_best(case, k))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_real_numbers_are_ordered_by_their_scores(level, dtypes):
    case = make_catalog_case((37, 311, 77), dtypes, exact=False, exclusions=True)
    scores = every_score(case.query, case.table)
    for k in (1, 10, 100, 311):
        assert_same(best(case, k), reference_best(case, k, scores))


@pytest.mark.parametrize("order", ["rising", "falling", "random", "constant"])
@pytest.mark.parametrize("k", [1, 10, 1000, 10_000])
def test_many_items_in_any_order(level, order, k):
    """Selections are compacted many times, or never let anything in."""
    num_items = 20_011
    values = {
        "rising": torch.arange(num_items),
        "falling": -torch.arange(num_items),
        "random": torch.randint(-5000, 5000, (num_items,), generator=torch.Generator()),
        "constant": torch.zeros(num_items, dtype=torch.int64),
    }[order].float()
    query = torch.tensor([[1.0], [-1.0]])
    case = CatalogCase(query, values[:, None], torch.zeros(2), None, None, None)
    assert_same(best(case, k), reference_best(case, k))


def test_non_finite_scores(level):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [0.0], [inf], [-0.0]])
    scores, ids = rk.topk_catalog(torch.ones(1, 1), table, 7)
    assert ids.tolist() == [[2, 5, 0, 4, 6, -1, -1]]
    assert scores.tolist() == [[inf, inf, 1, 0, 0, -inf, -inf]]


def test_all_is_excluded(level):
    query, table = torch.ones(2, 3), torch.ones(5, 3)
    scores, ids = rk.topk_catalog(query, table, 5, torch.arange(5).expand(2, -1))
    assert (ids == -1).all()
    assert (scores == -math.inf).all()
    assert rk.topk_catalog(query[:0], table, 2)[1].shape == (0, 2)


def test_results_do_not_depend_on_threads_or_the_batch(level):
    case = make_catalog_case((71, 3001, 45), exact=False)
    want = best(case, 50)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3, 8):
            torch.set_num_threads(n)
            assert_same(best(case, 50), want)
            one = rk.topk_catalog(case.query[5:6], case.table, 50)
            assert_same(one, (want[0][5:6], want[1][5:6]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("dim", [1, 31, 130])
def test_refined_results_are_those_of_the_source(level, dim, dtype, copy):
    for case in (
        near_ties(dim, dtype, seed=dim),
        make_catalog_case((35, 1503, dim), (F32, dtype), exact=False, exclusions=True),
        make_catalog_case((3, 97, dim), (F32, dtype), exact=True, exclusions=True),
    ):
        quantized = rk.quantize_table(case.table, copy)
        for k in (1, 3, 20, 45, 90):
            assert_same(best(case, k, quantized, refine=True), best(case, k))


@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
def test_refinement_of_a_constant_table_keeps_few(level, copy):
    """All items are in doubt: they are settled now and then, instead of being kept to the end."""
    table = torch.randn(1, 33).expand(20_011, -1).contiguous()
    case = CatalogCase(torch.randn(2, 33), table, torch.zeros(2), None, None, None)
    scores, ids = best(case, 10, rk.quantize_table(table, copy), refine=True)
    assert ids.tolist() == [list(range(10))] * 2
    assert_same((scores, ids), best(case, 10))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 2.0}, TypeError, "k must be a whole number"),
        ({"k": 10}, ValueError, "k is 10 but the table has only 9 rows"),
        ({"exclude": torch.tensor([[1], [9]])}, IndexError, "exclude: id 9 in row 1"),
        ({"valid": torch.ones(3, dtype=torch.bool)}, ValueError, r"valid must be \[9\]"),
        ({"query": torch.ones(2, 3)}, ValueError, "query has 3 dimensions but table has 4"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    arguments = {"query": torch.ones(2, 4), "table": torch.ones(9, 4), "k": 3} | changes
    with pytest.raises(error, match=words):
        rk.topk_catalog(**arguments)
