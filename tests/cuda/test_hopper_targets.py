"""Several targets per query on Hopper: the PTX on the CPU, and on a GPU if there is one."""

import math
from typing import Any

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import reference
from tests.cuda.conftest import OnGpu
from tests.errors import raises
from tests.gpu.cases import some
from tests.ops.cases import BF16, F32
from tests.ops.catalog_cases import CatalogCase, assert_counts, make_catalog_case

# (B, N, D) and the dtypes of queries and items; the numbers of targets rise from query to query.
CASES = [((5, 300, 72), (BF16, BF16)), ((130, 257, 13), (F32, BF16)), ((3, 600, 72), (F32, F32))]


def ranked(raw: Any, case: CatalogCase, targets: rk.RaggedIds) -> rk.RankCounts:
    """The public call, on the device of the kernels; its results on the CPU."""
    device = "cuda" if isinstance(raw, OnGpu) else "cpu"
    query, table, _, exclude, offsets, valid = (
        part if part is None else part.to(device) for part in case
    )
    seen = exclude if offsets is None else rk.RaggedIds(exclude, offsets)
    own = rk.RaggedIds(*(part.to(device) for part in targets))
    counts = rk.rank_catalog(query, table, own, seen, valid=valid, backend="cuda")
    got = rk.reward_catalog(query, table, own, seen, ("recall@5",), valid=valid, backend="cuda")
    want = rk.metrics_from_counts(counts, ("recall@5",), offsets=own.offsets)
    assert torch.equal(got.nan_to_num(-1), want.nan_to_num(-1))
    return rk.RankCounts(*(part.cpu() for part in counts))


def several(case: CatalogCase, most: int = 4) -> tuple[CatalogCase, rk.RaggedIds]:
    """Valid targets for each query of a case: none, 1, 2, … of them."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        torch.randperm(len(case.table), generator=generator)[: i % most].tolist()
        for i in range(len(case.query))
    ]
    targets = rk.RaggedIds.from_lists(rows)
    ids, offsets = (torch.as_tensor(part) for part in targets)
    valid = None if case.valid is None else case.valid.index_fill(0, ids, True)
    return case._replace(valid=valid), rk.RaggedIds(ids, offsets)


@pytest.mark.parametrize(("shape", "dtypes"), some(CASES, 1, 1), ids=str)
def test_whole_numbers_give_exactly_the_reference(raw, shape, dtypes):
    case, targets = several(make_catalog_case(shape, dtypes, exclusions=True))
    want = reference.rank_catalog_targets(*case[:2], *targets, *case[3:])
    assert_counts(ranked(raw, case, targets), want)


def test_scores_that_are_not_finite(raw):
    """Targets of NaN share the last ranks; a NaN competitor is not above."""
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [nan], [1.0]], dtype=BF16)
    case = CatalogCase(torch.ones(2, 1, dtype=BF16), table, table, None, None, None)
    targets = rk.RaggedIds(torch.tensor([1, 0, 5, 3, 2, 6]), torch.tensor([0, 4, 6]))
    want = reference.rank_catalog_targets(*case[:2], *targets)
    assert_counts(ranked(raw, case, targets), want)


def test_bad_targets_raise_the_errors_of_the_cpu(raw):
    case = make_catalog_case((2, 300, 8), (BF16, BF16))
    for ids, kind, *named in (
        ([1, 300, 2], IndexError, "targets", 300),
        ([1, 1, 2], ValueError, "targets", 1),
    ):
        with raises(kind, *named):
            ranked(raw, case, rk.RaggedIds(torch.tensor(ids), torch.tensor([0, 2, 3])))
