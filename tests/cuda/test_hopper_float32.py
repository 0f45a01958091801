"""float32 on Hopper, as bfloat16 parts: the PTX on the CPU, and on a GPU if there is one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _hopper, reference
from tests.gpu.cases import some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F32
from tests.ops.catalog_cases import CatalogCase, assert_counts, make_catalog_case

# (B, N, D) and the table's dtype: queries that stay in shared memory and those that do not, tables
# of which parts are made in several launches, and rows that bulk copies cannot read.
CASES = [
    ((3, 600, 72), F32),
    ((2, 257, 200), BF16),
    ((2, 300, 200), F32),
    ((130, 257, 13), BF16),
    ((3, 1031, 129), F32),
    ((1, 1, 1), F32),
    ((2, 255, 0), F32),
]


def counted(raw: Any, case: CatalogCase) -> rk.RankCounts:
    bad = torch.zeros(1, dtype=torch.int32)
    counts = _hopper.rank_catalog(raw, *case, None, None, None, bad)
    assert not bad.any()
    return rk.RankCounts(*counts)


def sizes(query: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The exact scores of all pairs, and the sums of |q_j t_j|."""
    query, table = query.double(), table.double()
    return query @ table.T, query.abs() @ table.abs().T


@pytest.mark.parametrize(("shape", "dtype"), some(CASES, 1, 2), ids=str)
def test_whole_numbers_give_exactly_the_reference(raw, shape, dtype):
    case = make_catalog_case(shape, (F32, dtype), exclusions=True)
    assert_counts(counted(raw, case), reference.rank_catalog(*case))


@pytest.mark.parametrize("dtype", some([F32, BF16], 2), ids=str)
@pytest.mark.parametrize("dim", [130, *some([13, 384], 3, 0)])
def test_pairs_have_the_scores_of_tiles_to_the_bit(raw, emulated_hopper, dim, dtype):
    """Each item is a target once: its rank is that among the scores of pairs."""
    case = make_catalog_case((1, 300, dim), (F32, dtype), exact=False)
    query, table = case.query.expand(300, -1)[:130], case.table.clone()
    table[150:] = table[:150][torch.randperm(150)]  # in other columns
    scores = raw.score_pairs(query, table, None, torch.arange(130))
    with emulated_hopper.mode(Mode(False, False, False)):
        early = raw.count_catalog(query, table, scores, None)
    every = raw.score_pairs(case.query.expand(300, -1), table, None, torch.arange(300))
    above, tied = raw.count_catalog(query, table, scores, None)
    assert torch.equal(early, torch.stack([above, tied]))
    assert above.tolist() == (every > scores[:, None]).sum(1).tolist()
    assert tied.tolist() == (every == scores[:, None]).sum(1).tolist()
    assert tied.min() >= 2


@pytest.mark.parametrize(("dim", "dtype"), some([(384, F32), (32, F32), (72, F32), (384, BF16)], 9))
def test_the_error_of_products_of_parts(raw, dim, dtype):
    """In units of the last place of the sums of |q_j t_j|; see docs/gpu.md."""
    torch.manual_seed(0)
    query, table = torch.randn(128, dim), torch.randn(128, dim).to(dtype)
    scores = raw.score_pairs(query, table, None, torch.arange(128))
    exact, size = (part.diagonal() for part in sizes(query, table))
    error = ((scores.double() - exact).abs() / size).max().item() * 2**24
    print(dim, dtype, error)  # shown by pytest -s
    assert 0.0 < error <= 16.0


def test_log_probabilities(raw):
    case = make_catalog_case((3, 600, 72), (F32, F32), exact=False)
    case = case._replace(exclude=torch.tensor([[7], [300], [599]]))
    bad = torch.zeros(1, dtype=torch.int32)
    *counts, found = _hopper.rank_log_prob_catalog(raw, *case, 0.5, bad)
    scores, _ = sizes(case.query, case.table)
    want = reference.log_prob_catalog(*case, 0.5, scores=scores)
    torch.testing.assert_close(found.double(), want, rtol=4e-6, atol=4e-6)
    assert_counts(rk.RankCounts(*counts), counted(raw, case))


def test_values_at_the_ends_of_float32(raw):
    """Parts beyond bfloat16, sums beyond float32, infinity and NaN; and the smallest numbers."""
    largest, nan, inf = torch.finfo(F32).max, math.nan, math.inf
    values = [largest, -largest, 1.0, nan, inf, -inf, 2.0**-126, 2.0**-120, 0.0, 1 + 2.0**-23]
    table = torch.tensor(values)[:, None].repeat(1, 3)
    table[8, 0], table[8, 1] = largest, -largest
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 7, 9])
    query = torch.tensor([1.0, 0.0, 0.0]).expand(8, -1).clone()
    query[1], query[2] = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    case = CatalogCase(query, table, targets, None, None, None)
    assert_counts(counted(raw, case), reference.rank_catalog(*case))
