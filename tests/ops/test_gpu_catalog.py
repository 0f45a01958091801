"""The catalog operators' GPU backend against their definition, on a GPU or as if on one."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import reference
from tests.ambient import products
from tests.errors import raises
from tests.gpu.cases import some
from tests.ops.cases import BF16, DTYPES, F16, F32, METRICS, TIES, huge_table
from tests.ops.catalog_cases import (
    ALL,
    CASES,
    CatalogCase,
    assert_counts,
    assert_same,
    catalog_label,
    draw_histories,
    make_catalog_case,
    reference_best,
    tables,
)
from tests.ops.gpu import DEVICE, Backend, moved
from tests.ops.test_catalog_integration import Answers

TRITON = Backend("triton")
FLOAT8 = torch.float8_e4m3fn


@pytest.mark.parametrize("spec", some(ALL, 7), ids=catalog_label)
def test_whole_numbers_give_exactly_the_reference(spec):
    case = make_catalog_case(**spec)
    want = reference.rank_catalog(*case)
    assert_counts(TRITON.rank_catalog(*case.arguments, valid=case.valid), want)
    got = TRITON.reward_catalog(*case.arguments, METRICS, valid=case.valid)
    exact = reference.metrics_from_counts(want, parse_metrics(METRICS), parse_ties("expected"))
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", some(ALL[1:], 7), ids=catalog_label)
def test_the_best_of_whole_numbers(spec):
    case = make_catalog_case(**spec)  # ties everywhere
    num_items = case.table.shape[0]
    for k in {min(7, num_items), (num_items + 1) // 2}:
        assert_same(best(case, k), reference_best(case, k))


def best(case: CatalogCase, k: int, table=None, **options):
    table = case.table if table is None else table
    return TRITON.topk_catalog(case.query, table, k, case.exclusions, valid=case.valid, **options)


@pytest.mark.parametrize(
    ("setting", "precision"),
    [
        ("highest", "tf32x3"),
        ("high", "tf32"),
        ("medium", "tf32"),
        ("cuda.matmul.allow_tf32=True", "tf32"),
        ("cuda.matmul.fp32_precision=tf32", "tf32"),
        ("cuda.matmul.fp32_precision=ieee", "tf32x3"),
        ("fp32_precision=tf32", "tf32"),
        ("mkldnn.matmul.fp32_precision=bf16", "tf32x3"),
    ],
)
def test_the_precision_of_products_is_read_however_it_was_set(setting, precision):
    from rl4rec_kernels.ops.triton.tile import operands

    with products(setting):
        before = torch.backends.cuda.matmul.fp32_precision
        assert operands(torch.ones(2, 64), torch.ones(3, 64), None).tile.precision == precision
        assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("ties", TIES)
def test_tie_rules(ties):
    case = make_catalog_case((5, 300, 2))
    got = TRITON.reward_catalog(*case.arguments, METRICS, ties)
    want = reference.metrics_from_counts(
        reference.rank_catalog(*case), parse_metrics(METRICS), parse_ties(ties)
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtypes", some(DTYPES, 2), ids=str)
def test_real_numbers(dtypes):
    """Scores are within rounding, and both operators rank by the scores of targets."""
    case = make_catalog_case((7, 300, 77), dtypes, exact=False, exclusions=True)
    scores = TRITON.every_score(case.query, case.table)
    exact = case.query.double() @ case.table.double().T
    # |error| <= gamma_D * sum |q_j t_j| (Higham 2002, section 3.1), for any order of additions.
    bound = case.query.double().abs() @ case.table.double().abs().T * 78 * 2.0**-24
    assert ((scores.double() - exact).abs() <= bound).all()
    counts = TRITON.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(counts, reference.rank_catalog(*case, scores=scores))
    assert_same(best(case, 20), reference_best(case, 20, scores))
    # A query's answer does not depend on the others.
    part = case.query[3:5], case.table, case.targets[3:5]
    want = TRITON.rank_catalog(case.query, case.table, case.targets)
    assert_counts(TRITON.rank_catalog(*part), rk.RankCounts(*(count[3:5] for count in want)))


def test_equal_embeddings_tie():
    table = torch.randn(1, 77).expand(500, 77).contiguous()
    counts = TRITON.rank_catalog(torch.randn(3, 77), table, torch.tensor([0, 250, 499]))
    assert counts.above.tolist() == [0] * 3
    assert counts.tied.tolist() == [499] * 3


@pytest.mark.parametrize("dtypes", some(DTYPES, 2), ids=str)
def test_non_finite_scores(dtypes):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]]).to(dtypes[1])
    query, targets = torch.ones(4, 1, dtype=dtypes[0]), torch.tensor([0, 1, 2, 3])
    counts = TRITON.rank_catalog(query, table, targets)
    want = [[3, 0, 6], [5, 0, 6], [0, 1, 6], [4, 0, 6]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want
    scores, ids = TRITON.topk_catalog(query[:1], table, 6)
    assert ids.tolist() == [[2, 5, 4, 0, -1, -1]]
    assert scores.tolist() == [[inf, inf, 2, 1, -inf, -inf]]


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_histories(data):
    query, table, targets, rows, valid = draw_histories(data, 40, 9)
    exclude = rk.RaggedIds(*map(torch.as_tensor, rk.RaggedIds.from_lists(rows)))
    want = reference.rank_catalog(query, table, targets, *exclude, valid)
    assert_counts(TRITON.rank_catalog(query, table, targets, exclude, valid=valid), want)
    found = TRITON.topk_catalog(query, table, len(table), exclude, valid=valid)
    scores, ids = reference.topk_catalog(query, table, len(table), *exclude, valid)
    assert_same(found, (scores.float(), ids))


def crowded(num_items: int) -> torch.Tensor:
    """High scores only where every third tile of 128 items is not."""
    rows = torch.arange(num_items)
    return rows * (rows // 128 % 3 == 1)


ORDERS = {
    "rising": torch.arange,
    "falling": lambda n: -torch.arange(n),
    "random": lambda n: torch.randint(-500, 500, (n,), generator=torch.Generator()),
    "constant": lambda n: torch.zeros(n, dtype=torch.int64),
    "crowded": crowded,
}


@pytest.mark.parametrize(("order", "k"), some([*itertools.product(ORDERS, (1, 40))], 3))
def test_the_best_of_many_items_in_any_order(order, k):
    values = ORDERS[order](1_411).float()[:, None]
    case = CatalogCase(torch.tensor([[1.0], [-1.0]]), values, torch.zeros(2), None, None, None)
    assert_same(best(case, k), reference_best(case, k))


@pytest.mark.parametrize(
    ("order", "excluding"), some([("rising", True), *((order, False) for order in ORDERS)], 5)
)
def test_queries_are_searched_again_if_too_many_items_reach_the_bound(
    monkeypatch, order, excluding
):
    """There is room for so few that the bound of a quarter of the items lets in too many."""
    module = __import__("rl4rec_kernels.ops.triton.topk_catalog", fromlist=["_ROOM"])
    monkeypatch.setattr(module, "_ROOM", 1)
    monkeypatch.setattr(module, "_SPARE", 200)
    num_items = 711
    values = ORDERS[order](num_items).float()[:, None]
    exclude = torch.arange(num_items - 9, num_items).expand(2, -1) if excluding else None
    case = CatalogCase(torch.tensor([[1.0], [-1.0]]), values, torch.zeros(2), exclude, None, None)
    assert_same(best(case, 100), reference_best(case, 100))


@pytest.mark.parametrize("copy", [torch.int8, BF16, FLOAT8], ids=str)
def test_quantized_tables(copy):
    """Rounded embeddings rank; with refine=True the source's do."""
    case = make_catalog_case((9, 150, 33), (F32, F32), exact=False)
    quantized = rk.quantize_table(case.table, copy)
    scores = TRITON.every_score(case.query, quantized.values, quantized.row_stats)
    if copy is torch.int8:
        scale = case.query.abs().amax(1, keepdim=True) / 127
        query = (case.query / scale).round() * scale
    else:
        query = case.query.bfloat16()
    exact = query.double() @ reference.exact_table(*quantized[:2], None).double().T
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-4)
    counts = TRITON.rank_catalog(case.query, quantized, case.targets)
    assert_counts(counts, reference.rank_catalog(*case[:3], scores=scores))
    assert_same(best(case, 9, quantized), reference_best(case, 9, scores))
    refined = TRITON.rank_catalog(case.query, quantized, case.targets, refine=True)
    assert_counts(refined, TRITON.rank_catalog(*case.arguments))
    assert_same(best(case, 9, quantized, refine=True), best(case, 9))


def test_non_finite_queries_rank_last_in_int8():
    query, table = torch.tensor([[torch.nan, 1.0], [1.0, 2.0], [torch.inf, 1.0]]), torch.randn(9, 2)
    counts = TRITON.rank_catalog(query, rk.quantize_table(table), torch.tensor([0, 1, 2]))
    want = rk.rank_catalog(query, rk.quantize_table(table), torch.tensor([0, 1, 2]))
    assert_counts(counts, want)
    assert counts.above[[0, 2]].tolist() == [8, 8]


def test_counts_of_slices_add_up():
    """As for a table that is spread over devices: counts of its slices add up."""
    case = make_catalog_case((9, 150, 33), (F32, F16), exact=False)
    whole = torch.stack(tuple(TRITON.rank_catalog(*case.arguments)))
    ops = TRITON.ops
    query, table, targets = (moved(t, DEVICE) for t in case[:3])
    scores = ops.score_catalog_targets(query, table, targets, None)
    total = torch.zeros_like(whole)
    for part in (slice(0, 61), slice(61, 150)):
        here = torch.where(
            (targets >= part.start) & (targets < part.stop), targets - part.start, -1
        )
        found = ops.rank_catalog(query, table[part], here, *[None] * 5, scores)
        total += torch.stack(found).cpu()
        total[2] -= 1  # each slice counts the target
    total[2] += 1
    assert torch.equal(total, whole)
    nowhere = ops.score_catalog_targets(query, table[:0], torch.full_like(targets, -1), None)
    assert nowhere.tolist() == [-math.inf] * 9


def test_tables_beyond_two_to_the_31_values(tmp_path):
    if DEVICE == "cuda":
        pytest.skip("the table is a sparse file; test_on_gpu.py has one on the GPU")
    table, used = huge_table(tmp_path)
    query = torch.randint(-2, 3, (5, table.shape[1])).float()
    scores = TRITON.ops.score_catalog_targets(query, table, used, None)
    assert torch.equal(scores, (query.double() * table[used].double()).sum(1).float())


@pytest.mark.parametrize(("rows", "num_items", "dim"), [(0, 5, 3), (2, 1, 3), (2, 5, 0), (0, 0, 3)])
def test_empty_dimensions(rows, num_items, dim):
    query, table = torch.ones(rows, dim), torch.ones(num_items, dim)
    targets = torch.zeros(rows, dtype=torch.int64)
    counts = TRITON.rank_catalog(query, table, targets)
    assert counts.tied.tolist() == [num_items - 1] * rows
    assert counts.total.tolist() == [num_items] * rows
    assert TRITON.reward_catalog(query, table, targets, None, ("mrr", "auc")).shape == (rows, 2)
    if num_items:
        assert TRITON.topk_catalog(query, table, 1)[1].tolist() == [[0]] * rows


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"targets": torch.tensor([1, -1])}, IndexError, ("targets", "id -1", "query 1")),
        ({"targets": torch.tensor([1, 2**32 + 1])}, IndexError, ("targets", "id 4294967297")),
        ({"exclude": torch.tensor([[1], [9]])}, IndexError, ("exclude", "id 9", "row 1")),
        ({"exclude": torch.tensor([[-2], [1]])}, IndexError, ("exclude", "id -2", "row 0")),
        (
            {"exclude": torch.tensor([[1], [9]]), "valid": torch.arange(9) > 0},
            IndexError,
            ("exclude", "id 9", "row 1"),
        ),
        (
            {"exclude": rk.RaggedIds(torch.tensor([1, 2]), torch.tensor([0, 3, 2]))},
            ValueError,
            ("exclude", "offsets[1]", 3),
        ),
        ({"valid": torch.arange(9) != 1}, ValueError, ("targets", "id 1", "query 0")),
    ],
)
def test_bad_ids_raise_what_the_cpu_raises(changes, error, named):
    arguments = {
        "query": torch.ones(2, 4),
        "table": torch.ones(9, 4),
        "targets": torch.tensor([1, 2]),
    } | changes
    for operator in ("rank_catalog", "reward_catalog"):
        with raises(error, *named):
            getattr(TRITON, operator)(**arguments)
    if "exclude" in changes:
        del arguments["targets"]
        with raises(error, *named):
            TRITON.topk_catalog(**arguments, k=3)


def test_unchecked_bad_targets_do_not_look_good():
    arguments = torch.ones(2, 4), torch.ones(9, 4), torch.tensor([1, 99])
    with rk.ops.unchecked_ids():
        counts = TRITON.rank_catalog(*arguments)
        rewards = TRITON.reward_catalog(*arguments)
    assert (counts.total < 0).tolist() == [False, True]
    assert rewards.isnan()[:, 0].tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "kind"), some([("int32", "plain"), ("ragged", "int8"), ("ragged", "bf16-refined")], 2)
)
def test_opcheck(name, kind):
    case = CASES[name]
    table, refine = tables(case)[kind]
    values, row_stats, source = (
        table if isinstance(table, rk.QuantizedTable) else (table, None, None)
    )
    source = source if refine else None
    query, values, targets, *rest = (
        moved(t, DEVICE)
        for t in (
            case.query,
            values,
            case.targets,
            case.exclude,
            case.offsets,
            case.valid,
            row_stats,
            source,
        )
    )
    ops, check = TRITON.ops, torch.library.opcheck
    check(ops.score_catalog_targets.default, (query, values, targets, rest[3]))
    check(ops.rank_catalog.default, (query, values, targets, *rest, None))
    check(ops.reward_catalog.default, (query, values, targets, *rest, [0, 3], [10, 1], 3))
    check(ops.topk_catalog.default, (query, values, 7, *rest))


def test_compile_without_graph_breaks():
    case = moved(CASES["ragged"], DEVICE)

    def step(query, table, targets, exclude, valid):
        options = {"valid": valid, "backend": "triton"}
        return Answers(
            rk.rank_catalog(query, table, targets, exclude, **options),
            rk.reward_catalog(query, table, targets, exclude, ("ndcg@10", "mrr"), **options),
            *rk.topk_catalog(query, table, 5, exclude, **options),
        )

    torch.compiler.reset()
    arguments = (case.query, case.table, case.targets, case.exclusions, case.valid)
    got, want = (f(*arguments) for f in (torch.compile(step, fullgraph=True), step))
    torch.testing.assert_close(got, want, rtol=0, atol=0)
