"""Log-probabilities, every CPU level and the GPU backend, against float64."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import rank_with_log_prob, reference
from tests.errors import raises
from tests.gpu.cases import some
from tests.ops import cases, catalog_cases
from tests.ops.cases import DTYPES, Case, label, make_case, strided
from tests.ops.catalog_cases import (
    CatalogCase,
    assert_counts,
    catalog_label,
    draw_histories,
    every_score,
    make_catalog_case,
)
from tests.ops.gpu import Backend

TRITON = Backend("triton")
INF, NAN = math.inf, math.nan
TEMPERATURES = [1e-3, 0.05, 1.0, 30.0, 1e3]


def close(got: Tensor, want: Tensor) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6, equal_nan=True)


def catalog_truth(case: CatalogCase, temperature: float, scores: Tensor) -> Tensor:
    return reference.log_prob_catalog(*case, temperature, scores=scores)


def candidates_truth(
    case: Case, temperature: float, scores: Tensor, log_q: Tensor | None = None
) -> Tensor:
    return reference.log_prob_candidates(*case, log_q, temperature, scores=scores)


def with_temperatures(specs: list[dict[str, Any]], name: Callable[..., str]) -> Any:
    """Parametrize by all cases, each with one of the temperatures."""
    pairs = list(zip(specs, itertools.cycle(TEMPERATURES), strict=False))
    ids = [f"{name(spec)}-{temperature:g}" for spec, temperature in pairs]
    return pytest.mark.parametrize(("spec", "temperature"), pairs, ids=ids)


@with_temperatures(catalog_cases.ALL, catalog_label)
def test_catalog(level, spec, temperature):
    case = make_catalog_case(**spec, exact=False)
    scores = every_score(case.query, case.table)
    got = rk.log_prob_catalog(*case.arguments, temperature, case.valid)
    close(got, catalog_truth(case, temperature, scores))
    counts, same = rank_with_log_prob(*case.arguments, temperature, case.valid)
    assert torch.equal(same, got)
    assert_counts(counts, rk.rank_catalog(*case.arguments, valid=case.valid))


@with_temperatures(some(catalog_cases.ALL[::3], 3), catalog_label)
def test_catalog_on_a_gpu(spec, temperature):
    case = make_catalog_case(**spec, exact=False)
    scores = TRITON.every_score(case.query, case.table)
    got = TRITON.log_prob_catalog(*case.arguments, temperature, case.valid)
    close(got, catalog_truth(case, temperature, scores))


@with_temperatures(cases.ALL, label)
def test_candidates(level, spec, temperature):
    case = make_case(**spec, exact=False)
    scores = rk.score_candidates(case.query, case.table, case.candidates)
    for log_q in (None, torch.randn(len(case.table))):
        got = rk.log_prob_candidates(*case[:2], case.candidates, temperature, log_q)
        close(got, candidates_truth(case, temperature, scores, log_q))


@with_temperatures(some(cases.ALL[::3], 3), label)
def test_candidates_on_a_gpu(spec, temperature):
    case = make_case(**spec, exact=False)
    scores = TRITON.score_candidates(case.query, case.table, case.candidates)
    log_q = torch.randn(len(case.table))
    got = TRITON.log_prob_candidates(*case[:2], case.candidates, temperature, log_q)
    close(got, candidates_truth(case, temperature, scores, log_q))


def test_the_reference_backend_is_the_reference():
    case = make_catalog_case((5, 61, 12), exact=False, exclusions=True)
    got = rk.log_prob_catalog(*case.arguments, 0.5, case.valid, backend="reference")
    close(got, reference.log_prob_catalog(*case, 0.5))
    ragged = make_case((4, 9, 12, 10), exact=False, ragged=True)
    got = rk.log_prob_candidates(*ragged[:2], ragged.candidates, 0.5, backend="reference")
    close(got, reference.log_prob_candidates(*ragged, None, 0.5))
    # The definition, in torch's own words.
    query, table, targets = torch.randn(6, 8), torch.randn(20, 8), torch.arange(6)
    want = -torch.nn.functional.cross_entropy(query @ table.T / 0.7, targets, reduction="none")
    got = rk.log_prob_catalog(query, table, targets, temperature=0.7)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


BACKENDS = {"cpu": rk, "triton": TRITON}
# Scores of the items 0, 1, ... and, for each of them as the target, the probability.
EXTREMES = {
    "single": ([3.0], [1.0]),
    "all equal": ([2.0] * 500, [1 / 500] * 500),
    "huge": ([3e38, -3e38, 3e38, 0.0], [0.5, 0.0, 0.5, 0.0]),
    "largest": ([3.4028234e38, 0.0], [1.0, 0.0]),
    "infinite": ([INF, 1.0, INF, 3e38, -INF], [0.5, 0.0, 0.5, 0.0, 0.0]),
    "late infinity": ([1.0] * 400 + [INF], [0.0] * 400 + [1.0]),
    "minus infinity": ([-INF, 0.0, 0.0, -INF], [0.0, 0.5, 0.5, 0.0]),
    "only minus infinity": ([-INF] * 4, [0.25] * 4),
    "single minus infinity": ([-INF], [1.0]),
    "lowest": ([-3.4028234e38, -INF], [1.0, 0.0]),
    "nan": ([NAN, 1.0, INF, -INF], [NAN] * 4),
}


def check_extremes(ops: Any, kind: str) -> None:
    scores, probabilities = (torch.tensor(values) for values in EXTREMES[kind])
    targets = torch.arange(len(scores))
    if len(scores) > 10:
        targets = targets[[0, -1]]
    query, table, n = torch.ones(len(targets), 1), scores[:, None], len(targets)
    others = torch.arange(len(scores)).expand(n, -1)  # the target's repeat among them is dropped
    candidates = torch.cat([targets[:, None], others, torch.full((n, 1), -1)], 1)
    want = reference.log_prob_catalog(query, table, targets, None, None, None, 1.0).float()
    torch.testing.assert_close(want.exp(), probabilities[targets], equal_nan=True)
    both = rank_with_log_prob(query, table, targets)
    if ops is rk:
        assert_counts(both[0], rk.rank_catalog(query, table, targets))
    for got in (
        both[1],
        ops.log_prob_catalog(query, table, targets),
        ops.log_prob_candidates(query, table, candidates),
    ):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", EXTREMES)
def test_extreme_scores(level, kind):
    check_extremes(rk, kind)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's arithmetic
@pytest.mark.parametrize("kind", EXTREMES)
def test_extreme_scores_on_a_gpu(kind):
    check_extremes(TRITON, kind)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_counts_only_where_it_competes(backend):
    ops = BACKENDS[backend]
    query = torch.tensor([[1.0], [1.0], [NAN], [1.0]])
    table, targets = torch.tensor([[1.0], [NAN], [1.0], [5.0]]), torch.tensor([0, 0, 0, 1])
    exclude = torch.tensor([[1, 3], [3, 3], [1, 1], [0, 3]])
    got = ops.log_prob_catalog(query, table, targets, exclude)
    torch.testing.assert_close(got[0], torch.tensor(0.5).log())
    assert got[1:].isnan().all()
    valid = torch.tensor([True, False, True, False])
    got = ops.log_prob_catalog(query, table, targets[:3].repeat(2)[:4], valid=valid)
    assert got.isnan().tolist() == [False, False, True, False]
    candidates = torch.tensor([[0, 2, -1], [0, 1, -1], [0, 2, -1], [1, 0, 2]])
    got = ops.log_prob_candidates(query, table, candidates)
    assert got.isnan().tolist() == [False, True, True, True]


def test_scores_in_any_order_and_of_any_spread(level):
    """The running reference is replaced at the right moments, and no addition loses digits."""
    n = 5000
    ramp = torch.linspace(-1, 1, n)
    for values in (ramp, -ramp, torch.cat([torch.ones(1), torch.full((n - 1,), 0.3)]), ramp**9):
        for spread in (1e-3, 1.0, 7.0, 100.0, 1e4):
            table = (values * spread)[:, None]
            case = CatalogCase(torch.ones(3, 1), table, torch.tensor([0, 77, n - 1]), *[None] * 3)
            want = catalog_truth(case, 1.0, table.T.expand(3, -1))
            close(rk.log_prob_catalog(*case[:3]), want)
            ids = torch.arange(n).expand(3, -1).clone()
            ids[:, 0] = case.targets
            scores = table[:, 0][ids]
            want = candidates_truth(Case(*case[:2], ids, None), 1.0, scores)
            close(rk.log_prob_candidates(*case[:2], ids), want)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_a_result_does_not_depend_on_the_batch_or_the_threads(level, dtypes):
    case = make_catalog_case((71, 2503, 45), dtypes, exact=False, exclusions=True)
    rows = rk.RaggedIds(case.exclude, case.offsets).to_lists()
    ids = torch.randint(0, 2503, (71, 700))
    want = rk.log_prob_catalog(*case.arguments, 0.3, case.valid)
    want_among = rk.log_prob_candidates(*case[:2], ids, 0.3)
    for part in (slice(0, 1), slice(3, 7), slice(10, 43), slice(70, 71)):
        some = case.query[part], case.table, case.targets[part]
        got = rk.log_prob_catalog(*some, rk.RaggedIds.from_lists(rows[part]), 0.3, case.valid)
        assert torch.equal(got, want[part])
        got = rk.log_prob_candidates(case.query[part], case.table, ids[part], 0.3)
        assert torch.equal(got, want_among[part])
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            got = rk.log_prob_catalog(*case.arguments, 0.3, case.valid)
            assert torch.equal(got, want)
            assert torch.equal(rk.log_prob_candidates(*case[:2], ids, 0.3), want_among)
    finally:
        torch.set_num_threads(threads)


def test_a_result_does_not_depend_on_the_batch_on_a_gpu():
    case = make_catalog_case((131, 300, 33), exact=False)
    want = TRITON.log_prob_catalog(*case.arguments, 0.3)
    for part in (slice(0, 1), slice(120, 131)):
        got = TRITON.log_prob_catalog(case.query[part], case.table, case.targets[part], None, 0.3)
        assert torch.equal(got, want[part])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_histories(data):
    query, table, targets, rows, valid = draw_histories(data, 80, 40)
    exclude = rk.RaggedIds.from_lists(rows)
    values, offsets = (torch.as_tensor(part) for part in exclude)
    want = reference.log_prob_catalog(query, table, targets, values, offsets, valid, 0.5)
    close(rk.log_prob_catalog(query, table, targets, exclude, 0.5, valid), want)


@settings(deadline=None, max_examples=10)
@given(st.data())
def test_any_histories_on_a_gpu(data):
    query, table, targets, rows, valid = draw_histories(data, 80, 9)
    exclude = rk.RaggedIds(*map(torch.as_tensor, rk.RaggedIds.from_lists(rows)))
    want = reference.log_prob_catalog(query, table, targets, *exclude, valid, 0.5)
    close(TRITON.log_prob_catalog(query, table, targets, exclude, 0.5, valid), want)


@pytest.mark.parametrize("how", ["transposed", "sliced", "stepped"])
def test_memory_layout_does_not_matter(how):
    case = make_case((5, 40, 30, 37), exact=False)
    want = rk.log_prob_candidates(*case[:3]), rk.log_prob_catalog(*case[:2], case.ids[:, 0])
    query, table, ids = (strided(part, how) for part in case[:3])
    assert torch.equal(rk.log_prob_candidates(query, table, ids), want[0])
    assert torch.equal(rk.log_prob_catalog(query, table, ids[:, 0]), want[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rows", "num_items", "dim"), [(0, 5, 3), (2, 1, 3), (2, 5, 0), (0, 0, 3)])
def test_empty_dimensions(backend, rows, num_items, dim):
    ops = BACKENDS[backend]
    query, table = torch.ones(rows, dim), torch.ones(num_items, dim)
    targets = torch.zeros(rows, dtype=torch.int64)
    want = torch.full((rows,), -math.log(max(num_items, 1)))
    torch.testing.assert_close(ops.log_prob_catalog(query, table, targets), want)
    candidates = torch.arange(max(num_items, 1)).expand(rows, -1)
    torch.testing.assert_close(ops.log_prob_candidates(query, table, candidates), want)


ARGUMENTS = {
    "catalog": {
        "query": torch.ones(2, 3),
        "table": torch.ones(9, 3),
        "targets": torch.tensor([1, 2]),
    },
    "candidates": {
        "query": torch.ones(2, 3),
        "table": torch.ones(9, 3),
        "candidates": torch.tensor([[1, 2], [3, 4]]),
    },
}


def call(ops: Any, kind: str, **changes: Any) -> Tensor:
    return getattr(ops, f"log_prob_{kind}")(**(ARGUMENTS[kind] | changes))


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize(
    ("temperature", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (NAN, ValueError),
        (INF, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_bad_temperatures_are_named(kind, temperature, error):
    with raises(error, "temperature", temperature):
        call(rk, kind, temperature=temperature)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "named"),
    [
        ("catalog", {"targets": torch.tensor([1, 9])}, IndexError, ("targets", "id 9", "query 1")),
        ("catalog", {"targets": torch.tensor([1])}, ValueError, ("targets", [2], (1,))),
        ("catalog", {"exclude": torch.tensor([[1], [9]])}, IndexError, ("exclude", "id 9")),
        ("catalog", {"valid": torch.arange(9) != 1}, ValueError, ("targets", "id 1", "valid[1]")),
        ("catalog", {"valid": torch.ones(8).bool()}, ValueError, ("valid", [9], (8,))),
        ("catalog", {"table": rk.quantize_table(torch.ones(9, 3))}, TypeError, ("table",)),
        ("catalog", {"backend": "cuda"}, ValueError, ("backend", "cuda")),
        ("candidates", {"candidates": torch.tensor([[1], [9]])}, IndexError, ("id 9", "row 1")),
        ("candidates", {"candidates": torch.tensor([[1], [-1]])}, ValueError, ("row 1", -1)),
        ("candidates", {"candidates": torch.ones(2, 0).long()}, ValueError, ("row 0", "empty")),
        ("candidates", {"log_q": torch.ones(9).double()}, TypeError, ("log_q", torch.float64)),
        ("candidates", {"log_q": [0.0] * 9}, TypeError, ("log_q", "list")),
        ("candidates", {"log_q": torch.ones(2, 2)}, ValueError, ("log_q", [9], (2, 2))),
        ("candidates", {"query": torch.ones(2, 4)}, ValueError, ("query", 4, "table", 3)),
    ],
)
def test_bad_arguments_are_named(kind, changes, error, named):
    with raises(error, *named):
        call(rk, kind, **changes)
    if "backend" not in changes and not isinstance(changes.get("log_q"), list):
        with raises(error, *named):
            call(TRITON, kind, **changes)


def test_a_correction_that_is_constant_changes_nothing():
    case = make_case((4, 9, 12, 10), exact=False)
    want = rk.log_prob_candidates(*case[:3])
    got = rk.log_prob_candidates(*case[:3], log_q=torch.full((12,), -3.0))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
