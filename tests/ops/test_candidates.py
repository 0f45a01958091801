"""The candidate operators, every backend and CPU level, against their definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import cpu_levels, reference, use_cpu_level
from tests.errors import raises
from tests.ops.cases import (
    ALL,
    BF16,
    DTYPES,
    F16,
    F32,
    METRICS,
    TIES,
    Case,
    huge_table,
    label,
    make_case,
    strided,
)
from tests.ops.catalog_cases import assert_counts

pytestmark = pytest.mark.usefixtures("level")


@pytest.mark.parametrize("spec", ALL, ids=label)
def test_whole_numbers_give_exactly_the_reference(spec):
    case = make_case(**spec)
    args = case.query, case.table, case.candidates
    scores = reference.score_candidates(*case)
    assert torch.equal(rk.score_candidates(*args), scores.float())
    counts = rk.rank_candidates(*args)
    assert_counts(counts, reference.rank_candidates(*case))
    for ties in TIES:
        got = rk.reward_candidates(*args, METRICS, ties)
        parsed, rule = parse_metrics(METRICS), parse_ties(ties)
        want = reference.reward_candidates(*case, parsed, rule)
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(got, rk.metrics_from_counts(counts, METRICS, ties))


@pytest.mark.parametrize("spec", ALL[::3], ids=label)
def test_real_numbers_stay_within_rounding(spec):
    case = make_case(**spec, exact=False)
    scores = rk.score_candidates(case.query, case.table, case.candidates)
    want = reference.score_candidates(*case)
    # |error| <= gamma_D * sum |q_j t_j| (Higham 2002, section 3.1), for any order of additions.
    magnitude = reference.score_candidates(case.query.abs(), case.table.abs(), *case[2:])
    bound = magnitude.nan_to_num(neginf=0) * case.query.shape[1] * 2.0**-24
    assert ((scores.double() - want).nan_to_num(0).abs() <= bound).all()
    # Ranks are those of the scores that score_candidates returns.
    counts = rk.rank_candidates(case.query, case.table, case.candidates)
    assert_counts(counts, reference.rank_candidates(*case, scores=scores))


def test_the_reference_backend_is_the_reference():
    case = make_case((3, 17, 11, 31), exact=False)
    args = case.query, case.table, case.candidates
    assert_counts(rk.rank_candidates(*args, backend="reference"), reference.rank_candidates(*case))
    want = reference.score_candidates(*case).float()
    assert torch.equal(rk.score_candidates(*args, backend="reference"), want)
    rewards = rk.reward_candidates(*args, METRICS, backend="reference")
    torch.testing.assert_close(rewards, rk.reward_candidates(*args, METRICS))


def test_a_constant_model_earns_what_chance_earns():
    query, table = torch.ones(1, 8), torch.ones(100, 8)
    candidates = torch.arange(100)[None]
    got = rk.reward_candidates(query, table, candidates, ("hit@10", "auc"))
    torch.testing.assert_close(got, torch.tensor([[0.1, 0.5]]))
    best = rk.reward_candidates(query, table, candidates, ("rank",), ties="optimistic")
    worst = rk.reward_candidates(query, table, candidates, ("rank",), ties="pessimistic")
    assert (best.item(), worst.item()) == (1, 100)


def test_repeats_count_except_those_of_the_target():
    query, table = torch.ones(1, 1), torch.tensor([[2.0], [3.0], [2.0], [1.0]])
    counts = rk.rank_candidates(query, table, torch.tensor([[0, 1, 1, 0, 2, 2, 2, 3, -1]]))
    assert_counts(counts, rk.RankCounts(*(torch.tensor([n]) for n in (2, 3, 7))))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_non_finite_scores(dtypes):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]]).to(dtypes[1])
    query = torch.ones(4, 1, dtype=dtypes[0])
    ids = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 4, 5], [3, 0, 1, 4, 5]])
    counts = rk.rank_candidates(query, table, ids)
    want = [[2, 0, 5], [4, 0, 5], [0, 1, 5], [3, 0, 5]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want
    scores = rk.score_candidates(query, table, ids)
    assert torch.equal(scores.nan_to_num(7), table.float()[ids].squeeze(-1).nan_to_num(7))


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_all_values_of_the_low_precisions_are_read_correctly(dtype):
    """All 65,536 bit patterns, subnormals and NaN included."""
    values = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    table = values.view(dtype if dtype is not F32 else BF16)[:, None].to(dtype)
    ids = torch.arange(1 << 16)[None]
    scores = rk.score_candidates(torch.ones(1, 1), table, ids)
    torch.testing.assert_close(scores[0], table[:, 0].float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_a_score_depends_on_its_query_and_item_only(dtypes):
    case = make_case((6, 700, 300, 77), dtypes, exact=False, padding=0)
    scores = rk.score_candidates(case.query, case.table, case.ids)
    alone = torch.stack(
        [
            torch.stack([rk.score_candidates(q[None], case.table, i.view(1, 1))[0, 0] for i in row])
            for q, row in zip(case.query[:2], case.ids[:2], strict=True)
        ]
    )
    assert torch.equal(scores[:2], alone)
    order = torch.randperm(700)
    shuffled = rk.score_candidates(case.query, case.table, case.ids[:, order])
    assert torch.equal(shuffled, scores[:, order])
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            assert torch.equal(rk.score_candidates(case.query, case.table, case.ids), scores)
            assert_counts(
                rk.rank_candidates(case.query, case.table, case.ids),
                reference.rank_candidates(*case, scores=scores),
            )
    finally:
        torch.set_num_threads(threads)


def test_equal_embeddings_tie():
    table = torch.randn(1, 77).expand(1000, 77).contiguous()
    counts = rk.rank_candidates(torch.randn(3, 77), table, torch.stack([torch.randperm(1000)] * 3))
    assert counts.tied.tolist() == [999] * 3


@pytest.mark.skipif(len(cpu_levels()) < 3, reason="needs avx2 and avx512 on one machine")
def test_levels_with_fused_multiply_add_agree_to_the_bit():
    case = make_case((5, 60, 50, 77), exact=False)
    scores = []
    for name in ("avx2", "avx512"):
        with use_cpu_level(name):
            scores.append(rk.score_candidates(case.query, case.table, case.ids))
    assert torch.equal(*scores)


@pytest.mark.parametrize("how", ["transposed", "sliced", "stepped"])
@pytest.mark.parametrize("which", ["query", "table", "ids"])
def test_memory_layout_does_not_matter(which, how):
    case = make_case((5, 40, 30, 37), exact=False)
    other = case._replace(**{which: strided(getattr(case, which), how)})
    assert not getattr(other, which).is_contiguous()
    for op in (rk.score_candidates, rk.reward_candidates):
        got = op(other.query, other.table, other.candidates)
        assert torch.equal(got, op(case.query, case.table, case.candidates))


def test_candidates_shared_by_all_queries_may_be_expanded():
    case = make_case((5, 40, 30, 37), exact=False)
    shared = case.ids[:1].expand(5, -1)
    want = rk.score_candidates(case.query, case.table, shared.contiguous())
    assert torch.equal(rk.score_candidates(case.query, case.table, shared), want)
    scores = rk.score_candidates(case.query[:1].expand(5, -1), case.table, case.ids)
    assert torch.equal(scores[0], want[0])


def test_tables_beyond_two_to_the_31_values(tmp_path):
    table, used = huge_table(tmp_path)
    case = Case(torch.randint(-2, 3, (2, table.shape[1])).float(), table, used.expand(2, -1), None)
    want = reference.score_candidates(*case).float()
    assert torch.equal(rk.score_candidates(*case[:3]), want)
    assert_counts(rk.rank_candidates(*case[:3]), reference.rank_candidates(*case))


@pytest.mark.parametrize("rows", [0, 3])
def test_empty_dimensions(rows):
    query, table = torch.ones(rows, 4), torch.ones(0 if rows == 0 else 5, 4)
    empty = torch.empty(rows, 0, dtype=torch.int64)
    assert rk.score_candidates(query, table, empty).shape == (rows, 0)
    if rows == 0:
        assert_counts(
            rk.rank_candidates(query, table, empty), rk.RankCounts(*[empty[:, 0:0].sum(1)] * 3)
        )
        assert rk.reward_candidates(query, table, empty, ("mrr", "auc")).shape == (0, 2)
        ragged = rk.RaggedIds(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        assert rk.score_candidates(query, table, ragged).shape == (0,)
    else:
        with raises(ValueError, "candidates", "row 0", "empty"):
            rk.rank_candidates(query, table, empty)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_ragged_equals_dense(data):
    rows = data.draw(st.lists(st.lists(st.integers(-1, 19), max_size=30), min_size=1, max_size=6))
    rows = [[data.draw(st.integers(0, 19)), *row] for row in rows]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(len(rows), 9, generator=generator)
    table = torch.randn(20, 9, generator=generator)
    width = max(map(len, rows))
    dense = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    ragged = rk.RaggedIds.from_lists(rows)
    assert_counts(rk.rank_candidates(query, table, ragged), rk.rank_candidates(query, table, dense))
    flat = rk.score_candidates(query, table, ragged)
    padded = rk.score_candidates(query, table, dense)
    for b, where in enumerate(reference.row_slices(flat, torch.as_tensor(ragged.offsets))):
        assert torch.equal(flat[where], padded[b, : len(rows[b])])
