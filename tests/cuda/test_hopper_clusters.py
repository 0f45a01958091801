"""Catalogs on Hopper by clusters of two blocks, which share items: the same bits as without."""

from contextlib import nullcontext

import pytest
import torch

from rl4rec_kernels.ops import _hopper
from tests.cuda import emulated
from tests.cuda.conftest import OnGpu
from tests.errors import raises
from tests.gpu.cases import some
from tests.gpu.emulator import Mode
from tests.ops.cases import BF16, F16, F32
from tests.ops.catalog_cases import make_catalog_case

# (B, N, D) and dtypes: a block of queries and a partner without, two, three; queries that do not
# stay in shared memory; parts, in several launches; and rows that are not copied by boxes.
CASES = [
    ((3, 300, 72), (BF16, BF16)),
    ((130, 700, 72), (F16, F16)),
    ((257, 520, 64), (BF16, BF16)),
    ((130, 300, 400), (BF16, BF16)),
    ((129, 300, 200), (F32, F32)),
    ((129, 257, 72), (F32, BF16)),
    ((130, 300, 13), (BF16, BF16)),
]


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(("shape", "dtypes"), some(CASES, 1, 1), ids=str)
def test_clusters_have_the_same_counts_and_sums(raw, shape, dtypes, late, monkeypatch, request):
    case = make_catalog_case(shape, dtypes, exact=False)
    case = case._replace(exclude=torch.arange(2 * shape[0]).view(-1, 2) % shape[1])
    on_gpu = isinstance(raw, OnGpu)
    emulator = None if on_gpu else request.getfixturevalue("emulated_hopper")
    found = []
    for together in ("1", "2"):
        monkeypatch.setenv("RL4REC_CLUSTER", together)
        bad = torch.zeros(1, dtype=torch.int32)
        with nullcontext() if on_gpu else emulator.mode(Mode(late, late, late)):
            found.append(_hopper.rank_log_prob_catalog(raw, *case, 0.5, bad))
        assert not bad.any()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("num_queries", "dim", "dtypes", "wanted"),
    [
        (128, 8, (BF16, BF16), 1),
        (129, 8, (BF16, BF16), 2),
        (257, 8, (BF16, BF16), 1),  # a partner without queries takes longer than it saves
        (11 * 128, 8, (BF16, BF16), 2),
        (257, 400, (F16, F16), 2),  # queries are copied too
        (257, 200, (F32, BF16), 1),  # the products take longer
        (129, 200, (F32, F32), 2),
        (129, 13, (BF16, BF16), 1),  # rows that are not copied by boxes
    ],
)
def test_blocks_are_together_where_it_takes_no_longer(
    emulated_hopper, num_queries, dim, dtypes, wanted, monkeypatch
):
    query, table = torch.zeros(num_queries, dim).to(dtypes[0]), torch.zeros(600, dim).to(dtypes[1])
    launches = []
    monkeypatch.setattr(emulated, "launch", lambda *arguments: launches.append(arguments))
    emulated_hopper.raw.count_catalog(query, table, torch.zeros(num_queries), None)
    *_, grid, threads, _, _, together = launches[-1]
    assert (threads, together) == (384, wanted)
    assert grid[0] % together == 0


def test_the_number_of_blocks_is_checked(raw, monkeypatch):
    monkeypatch.setenv("RL4REC_CLUSTER", "3")
    table = torch.zeros(2, 8, dtype=BF16)
    with raises(ValueError, "RL4REC_CLUSTER", "1 or 2", "3"):
        raw.count_catalog(table, table, torch.zeros(2), None)
