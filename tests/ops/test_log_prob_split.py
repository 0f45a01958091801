"""Log-probabilities in tables of many items, which CPUs with AMX score from bfloat16 parts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels, rank_with_log_prob, reference, use_cpu_level
from rl4rec_kernels.ops._arguments import Catalog, Ids
from rl4rec_kernels.ops._blocks import local_ids
from rl4rec_kernels.ops._log_sums import count_and_sum, target_log_probs
from tests.ops.cases import BF16, F16, F32
from tests.ops.catalog_cases import CatalogCase, assert_counts, every_score

N = 4200  # from 4,096 on scores may be split
LEVELS = [name for name in cpu_levels() if name.startswith("amx")]


@pytest.fixture(params=LEVELS, autouse=True)
def split_level(request: pytest.FixtureRequest):
    """Run the test with AMX and with its emulation."""
    with use_cpu_level(request.param):
        yield request.param


def gaussian(rows: int = 21, dim: int = 30, num_items: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dim)
    return (
        torch.randn(rows, dim, generator=generator),
        torch.randn(num_items, dim, generator=generator),
    )


def unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(values)


def with_rows(table: Tensor, rows: dict[int, float]) -> Tensor:
    table = table.clone()
    for row, factor in rows.items():
        table[row] *= factor
    return table


def cases() -> dict[str, tuple[Tensor, Tensor, float]]:
    """Query, table and temperature."""
    query, table = gaussian()
    small, smalls = gaussian(dim=1)
    biased = unit(query + 1), unit(table + 1)
    return {
        "gaussian": (query, table, 5.0),
        "flat": (query, table, 1e3),
        "peaked": (query, table, 2.0),  # some queries are exact, others have many heavy items
        "cold": (query, table, 1e-3),
        "one dimension": (small, smalls, 1.0),
        "biased": (*biased, 0.05),
        "equal rows": (query, table[:1].expand(N, -1), 5.0),
        "few different rows": (query, table[torch.arange(N) % 7], 5.0),
        "scaled": (query * 1e-3, table * 1e4, 70.0),
        "a long item": (query, with_rows(table, {77: 30.0, 4000: 1e6}), 7.0),
        "a long query": (with_rows(query, {3: 1e3, 7: 0.0, 9: 1e30}), table, 7.0),
        "a target that dominates": (query + 3 * table[:21], table, 7.0),
        "half tables": (query, table.half(), 7.0),
        "bfloat16 tables": (query, table.bfloat16(), 7.0),
    }


CASES = cases()


def full_case(name: str, exclusions: bool) -> CatalogCase:
    query, table, _ = CASES[name]
    targets = torch.arange(len(query))
    if not exclusions:
        return CatalogCase(query, table, targets, None, None, None)
    best = (query @ table.float().T).topk(40).indices  # of the history
    exclude = torch.cat([best, targets[:, None]], 1)
    offsets = torch.arange(len(query) + 1) * exclude.shape[1]
    valid = torch.arange(N) % 50 != 49
    return CatalogCase(query, table, targets, exclude.reshape(-1), offsets, valid)


@pytest.mark.parametrize("name", CASES)
def test_sums_are_exact(name):
    temperature = CASES[name][2]
    scores = every_score(*CASES[name][:2])
    for exclusions in (False, True):
        case = full_case(name, exclusions)
        got = rk.log_prob_catalog(*case.arguments, temperature, case.valid)
        want = reference.log_prob_catalog(*case, temperature, scores=scores)
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def test_excluded_rows_need_not_be_finite():
    query, table = gaussian()
    want = rk.log_prob_catalog(query, table, torch.arange(21), torch.tensor([[500, 4100]] * 21), 7)
    for value in (math.nan, math.inf):
        table[500] = table[4100, 3] = value
        exclude = torch.tensor([[500, 4100]] * 21)
        got = rk.log_prob_catalog(query, table, torch.arange(21), exclude, 7)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        exclude[4] = 500
        got = rk.log_prob_catalog(query, table, torch.arange(21), exclude, 7)
        assert got.isnan().nonzero().flatten().tolist() == ([4] if math.isnan(value) else [])


@pytest.mark.parametrize("name", ["peaked", "a long query", "a long item"])
def test_a_result_does_not_depend_on_the_batch_or_the_threads(name):
    case, temperature = full_case(name, exclusions=False), CASES[name][2]
    query = torch.cat([case.query, case.query.flip(0), case.query])
    targets = torch.cat([case.targets, case.targets.flip(0), case.targets])
    want = rk.log_prob_catalog(query, case.table, targets, None, temperature)
    for part in (slice(0, 1), slice(2, 19), slice(20, 53)):
        got = rk.log_prob_catalog(query[part], case.table, targets[part], None, temperature)
        assert torch.equal(got, want[part])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        got = rk.log_prob_catalog(query, case.table, targets, None, temperature)
        assert torch.equal(got, want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_one_pass_gives_counts_and_log_probabilities(name):
    """To the bit what two calls give, also where one pass cannot count all."""
    temperature = CASES[name][2]
    for exclusions in (False, True):
        case = full_case(name, exclusions)
        for query in (case.query, case.query[:9]):
            rest = case.targets[: len(query)], case.exclusions
            if exclusions:
                rest = rest[0], rk.RaggedIds.from_lists(case.exclusions.to_lists()[: len(query)])
            counts, log_probs = rank_with_log_prob(
                query, case.table, *rest, temperature, case.valid
            )
            want = rk.rank_catalog(query, case.table, *rest, valid=case.valid)
            assert_counts(counts, want)
            want = rk.log_prob_catalog(query, case.table, *rest, temperature, case.valid)
            assert torch.equal(log_probs, want)


@pytest.mark.parametrize("name", ["gaussian", "peaked", "a target that dominates"])
def test_slices_add_up(name):
    case, temperature = full_case(name, exclusions=True), CASES[name][2]
    scores = every_score(*CASES[name][:2])
    rows = torch.arange(len(case.query))
    targets = case.targets + torch.where(rows % 2 == 0, 0, 4120)  # in the second slice, of 90 rows
    case = case._replace(targets=targets, valid=case.valid.index_fill(0, targets, True))
    counts, sums = [], []
    for start, end in ((0, 4110), (4110, N)):
        ids = Ids(local_ids(case.exclude, start, end), case.offsets)
        found = count_and_sum(
            case.query,
            Catalog(case.table[start:end], case.valid[start:end], None, None),
            local_ids(targets, start, end),
            ids,
            scores[rows, targets],
            temperature,
        )
        counts.append(found[0])
        sums.append(found[1])
    above, tied, others = sum(counts)
    want = rk.rank_catalog(*case.arguments, valid=case.valid)
    assert_counts(rk.RankCounts(above, tied, others + 1), want)
    got = target_log_probs(scores[rows, targets], sums, temperature)
    want = reference.log_prob_catalog(*case, temperature, scores=scores)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    found = function(*leaves)
    weights = torch.linspace(-1, 2, len(found), dtype=found.dtype)
    return list(torch.autograd.grad((found * weights).sum(), leaves))


@pytest.mark.parametrize(
    "name", ["gaussian", "biased", "peaked", "a long item", "half tables", "bfloat16 tables"]
)
def test_gradients(name):
    case, temperature = full_case(name, exclusions=True), CASES[name][2]
    rest = case.targets, case.exclusions, temperature, case.valid
    got = gradients(lambda q, t: rk.log_prob_catalog(q, t, *rest), case.query, case.table)
    want = gradients(
        lambda q, t: reference.log_prob_catalog(q, t, *case[2:], temperature),
        case.query.double(),
        case.table.double(),
    )
    for one, other, given in zip(got, want, case[:2], strict=True):
        assert one.dtype == given.dtype
        scale = float(other.abs().max())
        unit = {F32: 3e-6, F16: 2**-10, BF16: 2**-7}[given.dtype]
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=unit, atol=4 * unit)
