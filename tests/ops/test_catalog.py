"""Ranks and the best items over the whole catalog, every CPU level, against their definition."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import reference
from tests.ops.cases import BF16, DTYPES, F16, F32, METRICS, TIES, huge_table
from tests.ops.catalog_cases import (
    ALL,
    CatalogCase,
    assert_counts,
    assert_same,
    catalog_label,
    draw_histories,
    every_score,
    make_catalog_case,
    near_ties,
    reference_best,
)


@pytest.mark.parametrize("spec", ALL, ids=catalog_label)
def test_whole_numbers_give_exactly_the_reference(level, spec):
    case = make_catalog_case(**spec)
    want = reference.rank_catalog(*case)
    counts = rk.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(counts, want)
    for ties in TIES:
        got = rk.reward_catalog(*case.arguments, METRICS, ties, valid=case.valid)
        exact = reference.metrics_from_counts(want, parse_metrics(METRICS), parse_ties(ties))
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(got, rk.metrics_from_counts(counts, METRICS, ties))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_real_numbers_stay_within_rounding(level, dtypes):
    case = make_catalog_case((37, 211, 77), dtypes, exact=False)
    scores = every_score(case.query, case.table)
    exact = case.query.double() @ case.table.double().T
    # |error| <= gamma_D * sum |q_j t_j| (Higham 2002, section 3.1), for any order of additions.
    bound = case.query.double().abs() @ case.table.double().abs().T * 78 * 2.0**-24
    assert ((scores.double() - exact).abs() <= bound).all()
    # Ranks are those of the scores that targets have.
    counts = rk.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(counts, reference.rank_catalog(*case, scores=scores))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_a_score_depends_on_its_query_and_item_only(level, dtypes):
    case = make_catalog_case((71, 130, 45), dtypes, exact=False)
    scores = every_score(case.query, case.table)
    for rows in (slice(0, 1), slice(3, 7), slice(10, 43), slice(70, 71)):
        assert torch.equal(every_score(case.query[rows], case.table), scores[rows])
    counts = rk.rank_catalog(*case.arguments)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            assert torch.equal(every_score(case.query, case.table), scores)
            assert_counts(rk.rank_catalog(*case.arguments), counts)
    finally:
        torch.set_num_threads(threads)


def test_equal_embeddings_tie(level):
    table = torch.randn(1, 77).expand(500, 77).contiguous()
    counts = rk.rank_catalog(torch.randn(3, 77), table, torch.tensor([0, 250, 499]))
    assert counts.above.tolist() == [0] * 3
    assert counts.tied.tolist() == [499] * 3


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_non_finite_scores(level, dtypes):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]]).to(dtypes[1])
    targets = torch.tensor([0, 1, 2, 3])
    counts = rk.rank_catalog(torch.ones(4, 1, dtype=dtypes[0]), table, targets)
    want = [[3, 0, 6], [5, 0, 6], [0, 1, 6], [4, 0, 6]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want


def test_exclusions(level):
    query, table = torch.ones(2, 1), torch.arange(6.0)[:, None]
    targets = torch.tensor([2, 2])
    exclude = rk.RaggedIds(torch.tensor([5, 5, 2, -1, 0]), torch.tensor([0, 0, 5]))
    counts = rk.rank_catalog(query, table, targets, exclude)
    assert torch.stack(tuple(counts), 1).tolist() == [[3, 0, 6], [2, 0, 4]]
    valid = torch.tensor([True, True, True, True, False, True])
    counts = rk.rank_catalog(query, table, targets, exclude, valid=valid)
    assert torch.stack(tuple(counts), 1).tolist() == [[2, 0, 5], [1, 0, 3]]
    everything = torch.arange(6).expand(2, -1)
    counts = rk.rank_catalog(query, table, targets, everything)
    assert torch.stack(tuple(counts), 1).tolist() == [[0, 0, 1]] * 2


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_histories(data):
    query, table, targets, rows, valid = draw_histories(data, 80, 40)
    exclude = rk.RaggedIds.from_lists(rows)
    values, offsets = (torch.as_tensor(part) for part in exclude)
    want = reference.rank_catalog(query, table, targets, values, offsets, valid)
    assert_counts(rk.rank_catalog(query, table, targets, exclude, valid=valid), want)
    width = max(map(len, rows))
    padded = torch.full((len(rows), width), -1)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    assert_counts(rk.rank_catalog(query, table, targets, padded, valid=valid), want)


@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("dim", [1, 31, 64, 130, 384])
def test_refined_counts_are_those_of_the_source(level, dim, dtype, copy):
    for case in (
        near_ties(dim, dtype, seed=dim),
        make_catalog_case((70, 503, dim), (F32, dtype), exact=False, exclusions=True),
        make_catalog_case((3, 97, dim), (F32, dtype), exact=True, exclusions=True),
    ):
        want = rk.rank_catalog(*case.arguments, valid=case.valid)
        quantized = rk.quantize_table(case.table, copy)
        arguments = (case.query, quantized, *case.arguments[2:])
        assert_counts(rk.rank_catalog(*arguments, valid=case.valid, refine=True), want)
        rewards = rk.reward_catalog(*arguments, METRICS, valid=case.valid, refine=True)
        torch.testing.assert_close(rewards, rk.metrics_from_counts(want, METRICS))


@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
def test_outliers_and_tiny_values_are_refined_too(level, copy):
    generator = torch.Generator().manual_seed(1)
    scales = 10.0 ** torch.randint(-40, 16, (300, 1), generator=generator)
    table = torch.randn(300, 40, generator=generator) * scales
    table[5] = 0
    query = torch.randn(20, 40, generator=generator) * scales[:20] / scales[:20].max() * 1e3
    for targets in (torch.arange(20), torch.full((20,), 5)):
        want = rk.rank_catalog(query, table, targets)
        got = rk.rank_catalog(query, rk.quantize_table(table, copy), targets, refine=True)
        assert_counts(got, want)


@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
def test_without_refinement_the_rounded_embeddings_rank(level, copy):
    case = make_catalog_case((9, 150, 33), (F32, F32), exact=False)
    quantized = rk.quantize_table(case.table, copy)
    scores = every_score(case.query, quantized.values, quantized.row_stats)
    if copy is BF16:
        query = case.query.bfloat16()
    else:
        scale = case.query.abs().amax(1, keepdim=True) / 127
        query = (case.query / scale).round() * scale
    exact = query.double() @ reference.exact_table(*quantized[:2], None).double().T
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-4)
    counts = rk.rank_catalog(case.query, quantized, case.targets)
    assert_counts(counts, reference.rank_catalog(*case[:3], scores=scores))


def test_tables_beyond_two_to_the_31_values(tmp_path):
    table, used = huge_table(tmp_path)
    valid = torch.zeros(table.shape[0], dtype=torch.bool)
    valid[used] = True
    query = torch.randint(-2, 3, (5, table.shape[1])).float()
    counts = rk.rank_catalog(query, table, used, valid=valid)
    want = reference.rank_catalog(query, table[used], torch.arange(5))
    assert_counts(counts, want)
    scores, ids = rk.topk_catalog(query, table, 5, valid=valid)
    want_scores, want_ids = reference.topk_catalog(query, table[used], 5)
    assert torch.equal(scores, want_scores.float())
    assert torch.equal(ids, used[want_ids])


@pytest.mark.parametrize(("rows", "num_items", "dim"), [(0, 5, 3), (2, 1, 3), (2, 5, 0), (0, 0, 3)])
def test_empty_dimensions(level, rows, num_items, dim):
    query, table = torch.ones(rows, dim), torch.ones(num_items, dim)
    targets = torch.zeros(rows, dtype=torch.int64)
    counts = rk.rank_catalog(query, table, targets)
    assert counts.tied.tolist() == [num_items - 1] * rows
    assert counts.total.tolist() == [num_items] * rows
    assert rk.reward_catalog(query, table, targets, None, ("mrr", "auc")).shape == (rows, 2)


def test_targets_of_other_slices_have_no_score(level):
    score = torch.ops.rl4rec.score_catalog_targets
    for table in (torch.ones(0, 3), torch.ones(2, 3)):
        scores = score(torch.ones(2, 3), table, torch.tensor([-1, -1]), None)
        assert scores.tolist() == [-math.inf] * 2


def test_long_ties_use_closed_forms():
    """A constant model over a large catalog: closed forms replace sums over all ranks."""
    query, table = torch.ones(2, 1), torch.ones(100_000, 1)
    got = rk.reward_catalog(query, table, torch.tensor([0, 7]), None, METRICS)
    counts = rk.rank_catalog(query, table, torch.tensor([0, 7]))
    want = reference.metrics_from_counts(counts, parse_metrics(METRICS), parse_ties("expected"))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("above", "tied"), list(itertools.product([0, 5, 63, 64, 900], [1, 64, 65, 700]))
)
def test_closed_forms_agree_with_sums(above, tied):
    scores = [2.0] * above + [1.0] * (tied + 1) + [0.0] * 40
    target = torch.tensor([above])
    got = rk.reward_catalog(torch.ones(1, 1), torch.tensor(scores)[:, None], target, None, METRICS)
    counts = rk.RankCounts(*(torch.tensor([n]) for n in (above, tied, len(scores))))
    want = reference.metrics_from_counts(counts, parse_metrics(METRICS), parse_ties("expected"))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


def best(case: CatalogCase, k: int, table: Tensor | rk.QuantizedTable | None = None, **options):
    table = case.table if table is None else table
    return rk.topk_catalog(case.query, table, k, case.exclusions, valid=case.valid, **options)


@pytest.mark.parametrize("spec", ALL, ids=catalog_label)
def test_the_best_of_whole_numbers(level, spec):
    case = make_catalog_case(**spec)  # ties everywhere
    num_items = case.table.shape[0]
    for k in {1, min(7, num_items), (num_items + 1) // 2, num_items}:
        assert_same(best(case, k), reference_best(case, k))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_the_best_of_real_numbers_are_ordered_by_their_scores(level, dtypes):
    case = make_catalog_case((37, 311, 77), dtypes, exact=False, exclusions=True)
    scores = every_score(case.query, case.table)
    for k in (1, 10, 100, 311):
        assert_same(best(case, k), reference_best(case, k, scores))


@pytest.mark.parametrize("order", ["rising", "falling", "random", "constant"])
@pytest.mark.parametrize("k", [1, 10, 1000, 10_000])
def test_the_best_of_many_items_in_any_order(level, order, k):
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


def test_the_best_of_non_finite_scores(level):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [0.0], [inf], [-0.0]])
    scores, ids = rk.topk_catalog(torch.ones(1, 1), table, 7)
    assert ids.tolist() == [[2, 5, 0, 4, 6, -1, -1]]
    assert scores.tolist() == [[inf, inf, 1, 0, 0, -inf, -inf]]


def test_nothing_is_found_if_all_is_excluded(level):
    query, table = torch.ones(2, 3), torch.ones(5, 3)
    scores, ids = rk.topk_catalog(query, table, 5, torch.arange(5).expand(2, -1))
    assert (ids == -1).all()
    assert (scores == -math.inf).all()
    assert rk.topk_catalog(query[:0], table, 2)[1].shape == (0, 2)


def test_the_best_do_not_depend_on_threads_or_the_batch(level):
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
def test_the_refined_best_are_those_of_the_source(level, dim, dtype, copy):
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
    """All items are undecided: they are rescored now and then, instead of being kept to the end."""
    table = torch.randn(1, 33).expand(20_011, -1).contiguous()
    case = CatalogCase(torch.randn(2, 33), table, torch.zeros(2), None, None, None)
    scores, ids = best(case, 10, rk.quantize_table(table, copy), refine=True)
    assert ids.tolist() == [list(range(10))] * 2
    assert_same((scores, ids), best(case, 10))
