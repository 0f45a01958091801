"""The CUDA kernels against the definition: their PTX on the CPU, and on a GPU if there is one."""

import math
from collections.abc import Sequence

import pytest
import torch

from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import reference
from tests.errors import raises
from tests.gpu.cases import EVERY, some
from tests.ops.cases import ALL, BF16, DTYPES, F16, F32, Case, huge_table, label, make_case
from tests.ops.catalog_cases import assert_counts

METRICS = ("ndcg@1", "ndcg@10", "hit@5", "mrr@3", "mrr", "auc", "logrank", "rank")
TIES = ("expected", "optimistic", "pessimistic", "average")
BAD_ID, BAD_OFFSETS = 1, 2


def metric_arguments(metrics: Sequence[str], ties: str) -> tuple[list[int], list[int], int]:
    kinds, cutoffs = zip(*parse_metrics(metrics), strict=True)
    return [int(kind) for kind in kinds], list(cutoffs), int(parse_ties(ties))


def reward(kernels, case: Case, metrics=METRICS, ties="expected") -> torch.Tensor:
    return kernels.good("reward_candidates", case, *metric_arguments(metrics, ties))


@pytest.mark.parametrize("spec", some(ALL, 8), ids=label)
def test_whole_numbers_give_exactly_the_reference(kernels, spec):
    case = make_case(**spec)
    scores = reference.score_candidates(*case)
    assert torch.equal(kernels.good("score_candidates", case), scores.float())
    assert_counts(kernels.good("rank_candidates", case), reference.rank_candidates(*case))
    ties = TIES[sum(case.query.shape) % 4]
    want = reference.reward_candidates(*case, parse_metrics(METRICS), parse_ties(ties))
    torch.testing.assert_close(
        reward(kernels, case, ties=ties).double(), want, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("spec", some(ALL[::3], 4), ids=label)
def test_real_numbers_stay_within_rounding(kernels, spec):
    case = make_case(**spec, exact=False)
    scores = kernels.good("score_candidates", case)
    want = reference.score_candidates(*case)
    # |error| <= gamma_D * sum |q_j t_j| (Higham 2002, section 3.1), for any order of additions.
    magnitude = reference.score_candidates(case.query.abs(), case.table.abs(), *case[2:])
    bound = magnitude.nan_to_num(neginf=0) * case.query.shape[1] * 2.0**-24
    assert ((scores.double() - want).nan_to_num(0).abs() <= bound).all()
    # Ranks are those of the very scores that score_candidates returns.
    counts = kernels.good("rank_candidates", case)
    assert_counts(counts, reference.rank_candidates(*case, scores=scores))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(
    ("num_tied", "num_above"), some([(64, 0), (66, 0), (900, 0), (500, 300)], 3)
)
def test_long_ties_take_closed_forms(kernels, ties, num_tied, num_above):
    table = torch.tensor([1.0] * (1 + num_tied) + [2.0] * num_above + [0.0])[:, None]
    case = Case(torch.ones(1, 1), table, torch.arange(len(table))[None], None)
    metrics = (*METRICS, "mrr@400", "ndcg@333", "hit@700")
    want = reference.reward_candidates(*case, parse_metrics(metrics), parse_ties(ties))
    torch.testing.assert_close(reward(kernels, case, metrics, ties).double(), want)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_non_finite_scores(kernels, dtypes):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]]).to(dtypes[1])
    ids = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 4, 5], [3, 0, 1, 4, 5]])
    case = Case(torch.ones(4, 1, dtype=dtypes[0]), table, ids, None)
    counts = kernels.good("rank_candidates", case)
    want = [[2, 0, 5], [4, 0, 5], [0, 1, 5], [3, 0, 5]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want
    scores = kernels.good("score_candidates", case)
    assert torch.equal(scores.nan_to_num(7), table.float()[ids].squeeze(-1).nan_to_num(7))


@pytest.mark.parametrize("dim", [1, 8])
@pytest.mark.parametrize("dtype", [F16, BF16])
def test_every_value_of_float16_and_bfloat16_is_read_correctly(kernels, dtype, dim):
    """All 65,536 bit patterns, subnormals and NaN included, one by one and eight at a time."""
    step = 1 if EVERY else 61
    values = torch.arange(-(1 << 15), 1 << 15, step, dtype=torch.int32).to(torch.int16).view(dtype)
    ids = torch.arange(len(values))
    table = torch.zeros(len(values), dim, dtype=dtype)
    table[ids, ids % dim] = values
    scores = kernels.good("score_candidates", Case(torch.ones(1, dim), table, ids[None], None))
    torch.testing.assert_close(scores[0], values.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_a_score_depends_on_its_query_and_item_only(kernels, dtypes):
    case = make_case((3, 300, 100, 80), dtypes, exact=False, padding=0)
    scores = kernels.good("score_candidates", case)
    alone = [
        kernels.good(
            "score_candidates", Case(case.query[b : b + 1], case.table, i.view(1, 1), None)
        )
        for b in (0, 2)
        for i in case.ids[b, ::41]
    ]
    assert torch.equal(torch.cat(alone)[:, 0], scores[[0, 2], ::41].reshape(-1))
    order = torch.randperm(300)
    shuffled = kernels.good("score_candidates", case._replace(ids=case.ids[:, order]))
    assert torch.equal(shuffled, scores[:, order])
    # Rows that are not aligned are read value by value, to the same bits.
    for columns in (slice(1, 81), slice(80, 160)):
        table = torch.empty(100, 80 + columns.start, dtype=case.table.dtype)[:, columns]
        table.copy_(case.table)
        assert torch.equal(kernels.good("score_candidates", case._replace(table=table)), scores)


@pytest.mark.parametrize(("dtype", "dim"), [(F32, 37), (BF16, 13)], ids=str)
def test_a_row_is_not_mixed_with_those_beside_it(kernels, dtype, dim):
    """Rows that begin anywhere are read in aligned words, which have values of other rows."""
    for start in (0, 1, 6):
        values = torch.full((start + 40 * dim + 5,), math.nan, dtype=dtype)
        table = values[start : start + 40 * dim].view(40, dim)
        table[::2] = torch.randint(-2, 3, (20, dim)).to(dtype)
        case = Case(torch.ones(1, dim), table, torch.arange(0, 40, 2)[None], None)
        want = reference.score_candidates(*case).float()
        assert torch.equal(kernels.good("score_candidates", case), want)


def test_equal_embeddings_tie(kernels):
    table = torch.randn(1, 77).expand(400, 77).contiguous()
    ids = torch.stack([torch.randperm(400)] * 3)
    counts = kernels.good("rank_candidates", Case(torch.randn(3, 77), table, ids, None))
    assert counts.tied.tolist() == [399] * 3


def test_duplicates_count_but_not_those_of_the_target(kernels):
    table = torch.tensor([[2.0], [3.0], [2.0], [1.0]])
    ids = torch.tensor([[0, 1, 1, 0, 2, 2, 2, 3, -1] + [0, 1, -1, 2] * 100])
    counts = kernels.good("rank_candidates", Case(torch.ones(1, 1), table, ids, None))
    assert_counts(counts, reference.rank_candidates(torch.ones(1, 1), table, ids))


@pytest.mark.parametrize("columns", some([127, 126, 128, 129, 254, 255, 256], 2))
def test_rows_around_the_length_of_a_chunk(kernels, columns):
    for ragged in (False, True):
        case = make_case((3, columns, 50, 8), ragged=ragged, seed=columns)
        if ragged:  # lengths near it, and a target without competitors
            rows = [torch.randint(0, 50, (n,)) for n in (columns, 1, columns - 1)]
            offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
            case = case._replace(ids=torch.cat(rows), offsets=offsets)
        assert_counts(kernels.good("rank_candidates", case), reference.rank_candidates(*case))
        want = reference.score_candidates(*case).float()
        assert torch.equal(kernels.good("score_candidates", case), want)


def test_many_ragged_rows_are_found(kernels):
    """More rows than one step of the search covers, some of them much longer than others."""
    generator = torch.Generator().manual_seed(0)
    rows = 1100 if EVERY else 70
    lengths = torch.randint(1, 4, (rows,), generator=generator)
    lengths[[3, rows // 2, rows - 1]] = torch.tensor([1000, 127, 400])
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    ids = torch.randint(0, 50, (int(offsets[-1]),), generator=generator)
    case = Case(torch.randint(-2, 3, (rows, 4)).float(), torch.randn(50, 4), ids, offsets)
    scores = kernels.good("score_candidates", case)
    want = reference.rank_candidates(*case, scores=scores)
    assert_counts(kernels.good("rank_candidates", case), want)


def test_memory_layout_does_not_matter(kernels):
    case = make_case((5, 40, 30, 37), exact=False)
    want = kernels.good("score_candidates", case)
    for which in ("query", "table", "ids"):
        tensor = getattr(case, which)
        wide = torch.cat([tensor, tensor], dim=1)
        layouts = [
            tensor.t().contiguous().t(),
            wide[:, : tensor.shape[1]],
            torch.stack([tensor, tensor], dim=2).reshape(tensor.shape[0], -1)[:, ::2],
        ]
        for other in layouts:
            got = kernels.good("score_candidates", case._replace(**{which: other}))
            assert torch.equal(got, want)
    shared = case._replace(ids=case.ids[:1].expand(5, -1))
    copied = case._replace(ids=shared.ids.contiguous())
    assert torch.equal(
        kernels.good("score_candidates", shared), kernels.good("score_candidates", copied)
    )
    counts = kernels.good("rank_candidates", case._replace(query=case.query[:1].expand(5, -1)))
    one = kernels.good("rank_candidates", case._replace(query=case.query[:1].repeat(5, 1)))
    assert_counts(counts, one)


@pytest.mark.parametrize("dtypes", some([(BF16, BF16), (F32, F32)], 2), ids=str)
def test_rows_too_long_for_shared_memory(kernels, dtypes):
    case = make_case((3, 20, 10, 12_289), dtypes)
    want = reference.score_candidates(*case).float()
    assert torch.equal(kernels.good("score_candidates", case), want)
    assert_counts(kernels.good("rank_candidates", case), reference.rank_candidates(*case))


def test_tables_beyond_two_to_the_31_values(kernels, tmp_path):
    if kernels.device != "cpu" and torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    table, used = huge_table(tmp_path)
    case = Case(torch.randint(-2, 3, (2, table.shape[1])).float(), table, used.expand(2, -1), None)
    want = reference.score_candidates(*case).float()
    assert torch.equal(kernels.good("score_candidates", case), want)


def test_bad_ids_are_reported_and_poison_their_row(kernels):
    case = make_case((4, 300, 20, 8), padding=0)
    for bad_id in some((20, -2, 1 << 40, -(1 << 40)), 3):
        for column in some((0, 1, 299), 2):
            ids = case.ids.clone()
            ids[2, column] = bad_id
            scores, bad = kernels.run("score_candidates", case._replace(ids=ids))
            assert bad == BAD_ID
            assert scores.isnan().nonzero().tolist() == [[2, column]]
            counts, bad = kernels.run("rank_candidates", case._replace(ids=ids))
            assert bad == BAD_ID
            want = torch.stack(tuple(reference.rank_candidates(*case)))
            want[:, 2] = -1
            assert torch.equal(torch.stack(tuple(counts)), want)
    rewards, bad = kernels.run(
        "reward_candidates", case._replace(ids=ids), *metric_arguments(METRICS, "expected")
    )
    assert bad == BAD_ID
    assert rewards.isnan().all(1).tolist() == [False, False, True, False]


def test_a_row_needs_a_target(kernels):
    padded = Case(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([[0, -1], [-1, 2]]), None)
    for case in (
        padded,
        padded._replace(ids=torch.tensor([0, 1]), offsets=torch.tensor([0, 2, 2])),
    ):
        counts, bad = kernels.run("rank_candidates", case)
        assert bad == BAD_ID
        assert [column[1].item() for column in counts] == [-1, -1, -1]
        assert counts.total[0] == (1 if case is padded else 2)
        kernels.good("score_candidates", case)  # needs no target
    empty, bad = kernels.run("rank_candidates", padded._replace(ids=padded.ids[:, :0]))
    assert bad == BAD_ID
    assert empty.total.tolist() == [-1, -1]


@pytest.mark.parametrize(
    "offsets", [(0, 2, 4), (1, 2, 5), (0, 6, 5), (0, -3, 5), (0, 1 << 50, 5), (-9, 2, 5), (0, 2, 9)]
)
def test_bad_offsets_poison_everything(kernels, offsets):
    case = Case(torch.ones(2, 3), torch.ones(4, 3), torch.arange(5) % 4, torch.tensor(offsets))
    scores, bad = kernels.run("score_candidates", case)
    assert bad & BAD_OFFSETS
    assert scores.isnan().all()
    counts, bad = kernels.run("rank_candidates", case)
    assert bad & BAD_OFFSETS
    assert torch.stack(tuple(counts)).eq(-1).all()
    rewards, bad = kernels.run("reward_candidates", case, *metric_arguments(METRICS, "average"))
    assert bad & BAD_OFFSETS
    assert rewards.isnan().all()


@pytest.mark.parametrize("rows", [0, 3])
def test_empty_dimensions(kernels, rows):
    empty = torch.empty(rows, 0, dtype=torch.int64)
    case = Case(torch.ones(rows, 4), torch.ones(0 if rows == 0 else 5, 4), empty, None)
    assert kernels.good("score_candidates", case).shape == (rows, 0)
    if rows == 0:
        assert reward(kernels, case, ("mrr", "auc")).shape == (0, 2)
        ragged = case._replace(
            ids=empty[:, :0].reshape(0), offsets=torch.zeros(1, dtype=torch.int64)
        )
        assert kernels.good("rank_candidates", ragged).above.shape == (0,)


def test_the_raw_operators_check_their_arguments(kernels):
    case = make_case((2, 3, 5, 8))
    for changes, *named in (
        ({"query": case.query[:, :7]}, "query", 7, "table", 8),
        ({"table": case.table.double()}, "table", "float32"),
        ({"table": case.table[0]}, "table", "2 dimensions", "got 1"),
        ({"ids": case.ids.short()}, "candidates", "int32 or int64"),
        ({"ids": case.ids[:1]}, "candidates", "[2, C]"),
        ({"ids": case.ids[0], "offsets": torch.tensor([0, 3])}, "offsets", "int64 [3]"),
    ):
        with raises(ValueError, *named):
            kernels.run("rank_candidates", case._replace(**changes))
    for arguments, *named in (
        (([17], [1], 0), "metric kind", 17),
        (([0], [1], 4), "tie rule", 4),
        (([0], [], 0), "kinds", "cutoffs", "same length"),
    ):
        with raises(ValueError, *named):
            kernels.run("reward_candidates", case, *arguments)


@pytest.mark.parametrize("count", some([0, 1, 64, 65, 200], 3))
def test_any_number_of_metrics(kernels, count):
    case = make_case((3, 300, 20, 8))
    metrics = [METRICS[m % len(METRICS)] for m in range(count)]
    arguments = metric_arguments(metrics, "expected") if count else ([], [], 0)
    rewards = kernels.good("reward_candidates", case, *arguments)
    assert torch.equal(rewards, reward(kernels, case)[:, [m % len(METRICS) for m in range(count)]])
    ids = case.ids.clone()
    ids[1, 5] = 20
    rewards, bad = kernels.run("reward_candidates", case._replace(ids=ids), *arguments)
    assert bad == BAD_ID
    assert rewards[1].isnan().all()
