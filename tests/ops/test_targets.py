"""Several targets per query: ranks in one list and their metrics, every backend."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import _blocks, reference
from tests.errors import raises
from tests.ops.cases import BF16, F32, TIES
from tests.ops.catalog_cases import CatalogCase, assert_counts, every_score, make_catalog_case
from tests.ops.gpu import DEVICE, Backend, moved

FAMILIES = ("ndcg", "hit", "mrr", "recall", "precision", "map")
METRICS = (
    *(f"{family}@{k}" for family in FAMILIES for k in (1, 3, 20)),
    *("mrr", "auc", "logrank", "rank"),
)
TRITON = Backend("triton")


@pytest.fixture(params=["cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param, "cpu" if request.param == "cpu" else DEVICE)


def draw_targets(case: CatalogCase, most: int = 9, seed: int = 0) -> rk.RaggedIds:
    """Distinct valid items for each query, none for some, some of them among the excluded."""
    draw, num_items = random.Random(seed), len(case.table)
    items = list(range(num_items)) if case.valid is None else case.valid.nonzero()[:, 0].tolist()
    excluded: list[list[int]] = [[] for _ in case.query]
    if isinstance(case.exclusions, rk.RaggedIds):
        excluded = case.exclusions.to_lists()
    rows = []
    for own in excluded:
        some = draw.sample(items, min(len(items), draw.randint(0, most)))
        more = [i for i in own if i in items and i not in some][:2]
        rows.append(some + sorted(set(more)))
    ids = rk.RaggedIds.from_lists(rows)
    return rk.RaggedIds(torch.from_numpy(ids.values), torch.from_numpy(ids.offsets))


def want_counts(case: CatalogCase, targets: rk.RaggedIds, scores=None) -> rk.RankCounts:
    return reference.rank_catalog_targets(
        case.query, case.table, *targets, *case[3:], scores=scores
    )


CASES = [
    ((1, 1, 1), (F32, F32), False),
    ((33, 151, 64), (F32, F32), True),
    ((17, 97, 31), (F32, BF16), False),
    ((67, 131, 8), (BF16, BF16), True),
]


@pytest.mark.parametrize(("shape", "dtypes", "exclusions"), CASES, ids=str)
def test_whole_numbers_give_exactly_the_reference(level, shape, dtypes, exclusions):
    case = make_catalog_case(shape, dtypes, exclusions=exclusions)  # ties everywhere
    targets = draw_targets(case)
    want = want_counts(case, targets)
    arguments = case.query, case.table, targets, case.exclusions
    got = rk.rank_catalog(*arguments, valid=case.valid)
    assert_counts(got, want)
    assert_counts(rk.rank_catalog(*arguments, valid=case.valid, backend="reference"), want)


@pytest.mark.parametrize(("shape", "dtypes", "exclusions"), CASES, ids=str)
def test_triton_gives_exactly_the_reference(shape, dtypes, exclusions):
    case = make_catalog_case(shape, dtypes, exclusions=exclusions)
    targets = draw_targets(case)
    got = TRITON.rank_catalog(case.query, case.table, targets, case.exclusions, valid=case.valid)
    assert_counts(got, want_counts(case, targets))


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, BF16)], ids=str)
def test_ranks_are_those_of_the_scores(level, dtypes):
    case = make_catalog_case((37, 61, 40), dtypes, exact=False, exclusions=True)
    targets = draw_targets(case)
    got = rk.rank_catalog(case.query, case.table, targets, case.exclusions, valid=case.valid)
    assert_counts(got, want_counts(case, targets, every_score(case.query, case.table)))
    # Neither do they depend on the batch and the threads, and a single target ranks alike.
    rows, offsets = slice(3, 7), targets.offsets
    few = rk.RaggedIds(targets.values[offsets[3] : offsets[7]], offsets[3:8] - offsets[3])
    some = rk.rank_catalog(case.query[rows], case.table, few, valid=case.valid)
    every = rk.rank_catalog(case.query, case.table, targets, valid=case.valid)
    assert_counts(some, rk.RankCounts(*(c[offsets[3] : offsets[7]] for c in every)))
    one = rk.RaggedIds(case.targets, torch.arange(38))
    alone = rk.rank_catalog(*case.arguments, valid=case.valid)
    again = rk.rank_catalog(case.query, case.table, one, case.exclusions, valid=case.valid)
    assert_counts(again, alone)


@pytest.mark.parametrize("copy", [torch.int8, BF16])
@pytest.mark.parametrize("refine", [False, True])
def test_quantized_tables(copy, refine):
    case = make_catalog_case((19, 61, 33), exact=False, exclusions=True)
    targets, table = draw_targets(case), rk.quantize_table(case.table, copy)
    arguments = targets, case.exclusions
    got = rk.rank_catalog(case.query, table, *arguments, valid=case.valid, refine=refine)
    exact = every_score(case.query, *((case.table,) if refine else table[:2]))
    assert_counts(got, want_counts(case, targets, exact))


def test_tiny_and_non_finite_scores(backend):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [nan], [1e-30], [1.5e-30]])
    targets = rk.RaggedIds.from_lists([[0, 1, 5, 2], [3], [1], [6, 7]])
    query = torch.tensor([[1.0], [1.0], [1.0], [1e-30]])
    for dtype in (F32, BF16) if backend.name == "cpu" else (F32,):
        counts = backend.rank_catalog(query.to(dtype), table.to(dtype), targets)
        got = torch.stack(tuple(counts), 1).tolist()
        want = [[2, 0, 8], [6, 1, 8], [6, 1, 8], [0, 0, 8], [5, 0, 8], [7, 0, 8]]
        assert got[:6] == want  # NaN targets share the last ranks
    # 1e-60 and 1.5e-60 are 0 in float32: they tie.
    assert got[6:] == [[3, 1, 8], [3, 1, 8]]


def brute_force(metric: str, scores: list[int], targets: set[int]) -> float:
    """The mean over all orders of the items that are in order of their scores."""
    values, items = [], range(len(scores))
    groups = [
        list(g)
        for _, g in itertools.groupby(
            sorted(items, key=lambda i: -scores[i]), key=scores.__getitem__
        )
    ]
    parsed = parse_metrics([metric])[0]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        order = [item for group in orders for item in group]
        ranks = [rank for rank, item in enumerate(order, 1) if item in targets]
        values.append(reference.metric_at_ranks(parsed, ranks, len(scores)))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(4))
def test_the_expectation_is_the_mean_over_all_orders(backend, seed):
    draw = random.Random(seed)
    scores = [draw.randrange(3) for _ in range(7)]
    targets = draw.sample(range(7), draw.randint(1, 5))
    table = torch.tensor(scores, dtype=F32)[:, None]
    arguments = torch.ones(1, 1), table, rk.RaggedIds.from_lists([targets])
    got = backend.reward_catalog(*arguments, None, METRICS)[0].tolist()
    want = [brute_force(metric, scores, set(targets)) for metric in METRICS]
    assert got == pytest.approx(want, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("ties", TIES)
def test_metrics_are_those_of_the_reference(backend, ties):
    case = make_catalog_case((29, 47, 3))
    targets = draw_targets(case)
    counts = want_counts(case, targets)
    want = reference.metrics_of_targets(
        counts, targets.offsets, parse_metrics(METRICS), parse_ties(ties)
    )
    got = backend.metrics_from_counts(counts, METRICS, ties, offsets=targets.offsets)
    assert got.dtype == F32
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert got.isnan().all(1).tolist() == (targets.offsets.diff() == 0).tolist()


def test_one_target_has_the_metrics_of_one_target(backend):
    case = make_catalog_case((31, 83, 3))
    counts, offsets = reference.rank_catalog(*case), torch.arange(32)
    for ties in TIES:
        got = backend.metrics_from_counts(counts, METRICS, ties, offsets=offsets)
        torch.testing.assert_close(got, backend.metrics_from_counts(counts, METRICS, ties))
    names = ("hit@3", "RECALL@3", "Precision@3", "mrr@3", "Map@3")  # whatever the case
    hit, recall, precision, mrr, average = backend.metrics_from_counts(counts, names).unbind(1)
    assert torch.equal(hit, recall)
    assert torch.equal(mrr, average)
    torch.testing.assert_close(precision, hit / 3)


def test_long_ties(backend):
    n = 20_000 if backend.name == "cpu" else 200
    counts = rk.RankCounts(*(torch.tensor([c, c]) for c in (0, n - 1, n)))
    got = backend.metrics_from_counts(
        counts, ("hit@10", "mrr", "map@10"), offsets=torch.tensor([0, 2])
    )
    miss = (n - 10) * (n - 11) / (n * (n - 1))
    first = sum(2 * (n - j) / (n * (n - 1)) / j for j in range(1, n))
    precision = sum(2 / n * (1 + (j - 1) / (n - 1)) / j for j in range(1, 11)) / 2
    assert got[0].tolist() == pytest.approx([1 - miss, first, precision], rel=1e-5)


def test_slices_of_a_table_add_up(monkeypatch):
    case = make_catalog_case((23, 211, 9), exclusions=True)
    case.table[5] = torch.nan
    targets = draw_targets(case)
    arguments = case.query, case.table, targets, case.exclusions
    whole = rk.rank_catalog(*arguments, valid=case.valid)
    monkeypatch.setattr(_blocks, "SLICE_BYTES", 9 * 4 * 50)
    assert_counts(rk.rank_catalog(*arguments, valid=case.valid), whole)
    dense = torch.tensor(
        [row[:3] + [-1] * (3 - len(row[:3])) for row in case.exclusions.to_lists()]
    )
    sliced = rk.rank_catalog(*arguments[:3], dense)
    monkeypatch.undo()
    assert_counts(sliced, rk.rank_catalog(*arguments[:3], dense))
    monkeypatch.setattr(_blocks, "_CALL_WORK", 1)
    monkeypatch.setattr(_blocks, "_WALK", 4)
    assert_counts(rk.rank_catalog(*arguments, valid=case.valid), whole)


def test_a_sharded_table(tmp_path):
    """One process is enough: how counts of several add up is tested with a target per query."""
    case = make_catalog_case((11, 61, 9), exclusions=True)
    case.table[5] = torch.nan
    targets = draw_targets(case)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = rk.ShardedTable.from_slice(case.table, case.valid)
        got = sharded.rank_catalog(case.query, targets, case.exclusions)
        rewards = sharded.reward_catalog(case.query, targets, case.exclusions, METRICS)
        with raises(ValueError, "targets", 3, "query 0"):
            sharded.rank_catalog(case.query[:1], [[3, 3]])
    finally:
        dist.destroy_process_group()
    arguments = case.query, case.table, targets, case.exclusions
    assert_counts(got, rk.rank_catalog(*arguments, valid=case.valid))
    want = rk.reward_catalog(*arguments, METRICS, valid=case.valid)
    torch.testing.assert_close(rewards, want, rtol=0, atol=0, equal_nan=True)


def test_lists_and_arrays(backend):
    query = table = torch.eye(4)
    for targets in (
        [[1, 2], [0], [], [3]],
        rk.RaggedIds(np.array([1, 2, 0, 3]), np.array([0, 2, 3, 3, 4])),
    ):
        got = backend.rank_catalog(query, table, targets)
        assert torch.stack(tuple(got), 1).tolist() == [[1, 2, 4]] * 3 + [[0, 0, 4]]
    for targets in ([1, 2, 0, 3], np.array([1, 2, 0, 3], np.int32)):
        assert rk.rank_catalog(query, table, targets).above.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("targets", "kind", "named"),
    [
        ([[1, 2], [4]], IndexError, ("targets", 4, "query 1")),
        ([[1, 2], [-1]], IndexError, ("targets", -1, "query 1")),
        ([[1], [2, 3, 2]], ValueError, ("targets", 2, "query 1")),
        ([[1], [2, 0]], ValueError, ("targets", 0, "query 1", "valid")),
        ([[1]], ValueError, ("targets", 2)),
        ([["a"], [1]], TypeError, ("targets",)),
        (rk.RaggedIds(torch.tensor([1, 2]), torch.tensor([0, 3, 2])), ValueError, ("targets",)),
        (rk.RaggedIds(torch.tensor([1.0]), torch.tensor([0, 0, 1])), TypeError, ("targets",)),
    ],
    ids=str,
)
def test_bad_targets(backend, targets, kind, named):
    valid = torch.tensor([False, True, True, True])
    with raises(kind, *named):
        backend.rank_catalog(torch.ones(2, 1), torch.ones(4, 1), targets, valid=valid)


def test_bad_counts():
    good = rk.RankCounts(*(torch.tensor([c, c]) for c in (0, 0, 3)))
    with raises(ValueError, "counts", "above=0", "total=3"):  # two first places
        rk.metrics_from_counts(good, ("mrr",), offsets=torch.tensor([0, 2]))
    with raises(ValueError, "counts", "row 1"):
        negative = good._replace(tied=torch.tensor([0, -1]))
        rk.metrics_from_counts(negative, ("mrr",), offsets=torch.tensor([0, 1, 2]))
    with raises(ValueError, "offsets", 3):
        rk.metrics_from_counts(good, ("mrr",), offsets=torch.tensor([0, 3]))
    with raises(TypeError, "offsets", "int64"):
        rk.metrics_from_counts(good, ("mrr",), offsets=torch.tensor([0, 2]).int())


def test_opcheck_and_compile(backend):
    case = make_catalog_case((9, 61, 12), exclusions=True)
    targets = draw_targets(case)
    arguments = (case.query, case.table, *targets, *case[3:], None, None)
    arguments = moved(arguments, backend.device)
    check = torch.library.opcheck
    check(backend.ops.rank_catalog_targets.default, arguments)
    counts = moved(want_counts(case, targets), backend.device)
    offsets = targets.offsets.to(backend.device)
    check(backend.ops.metrics_of_targets.default, (*counts, offsets, [0, 8], [10, 5], 3))

    def step(query, table, targets, exclude, valid):
        options = {"valid": valid, "backend": backend.name}
        return (
            *rk.rank_catalog(query * 2, table, targets, exclude, **options),
            rk.reward_catalog(query, table, targets, exclude, ("map@5",), **options),
        )

    torch.compiler.reset()
    given = moved((case.query, case.table, targets, case.exclusions, case.valid), backend.device)
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(got, step(*given), rtol=0, atol=0, equal_nan=True)
