"""Catalogs in slices: the same results, to the bit, and no memory for the table."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _blocks
from tests.ops.cases import BF16, DTYPES, F16, F32, METRICS
from tests.ops.catalog_cases import CatalogCase, assert_counts, make_catalog_case, near_ties

SHAPE = (37, 311, 33)


@pytest.fixture
def cut(monkeypatch):
    """Make slices of so many bytes."""

    def to(size: int) -> None:
        monkeypatch.setattr(_blocks, "SLICE_BYTES", size)

    return to


def results(case: CatalogCase, table=None, **options):
    table = case.table if table is None else table
    counts = rk.rank_catalog(
        case.query, table, case.targets, case.exclusions, valid=case.valid, **options
    )
    rewards = rk.reward_catalog(
        case.query, table, case.targets, case.exclusions, METRICS, valid=case.valid, **options
    )
    best = [
        rk.topk_catalog(case.query, table, k, case.exclusions, valid=case.valid, **options)
        for k in {1, min(10, table.shape[0]), table.shape[0]}
    ]
    return counts, rewards, best


def assert_same(got, want) -> None:
    assert_counts(got[0], want[0])
    assert torch.equal(got[1], rk.metrics_from_counts(want[0], METRICS))
    assert torch.equal(got[1], want[1])
    for (scores, ids), (want_scores, want_ids) in zip(got[2], want[2], strict=True):
        assert torch.equal(scores, want_scores)
        assert torch.equal(ids, want_ids)


@pytest.mark.parametrize("rows", [5, 100, 310])
@pytest.mark.parametrize("exact", [True, False], ids=["ties", "real"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_slices_give_the_results_of_the_whole(cut, dtypes, exact, rows):
    for options in (
        {"exclusions": True},
        {"exclusions": True, "ids_dtype": torch.int32},
        {"exclusions": False},
    ):
        case = make_catalog_case(SHAPE, dtypes, exact=exact, **options)
        want = results(case)
        cut(rows * SHAPE[2] * case.table.element_size())
        assert_same(results(case), want)
        cut(1 << 30)


@pytest.mark.parametrize("refine", [True, False], ids=["refined", "rounded"])
@pytest.mark.parametrize("copy", [torch.int8, BF16], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_slices_of_quantized_tables(cut, dtype, copy, refine):
    for case in (
        near_ties(33, dtype, seed=3),
        make_catalog_case(SHAPE, (F32, dtype), exact=False, exclusions=True),
    ):
        table = rk.quantize_table(case.table, copy, keep_source=refine)
        want = results(case, table, refine=refine)
        cut(20_000)
        assert_same(results(case, table, refine=refine), want)
        cut(1 << 30)


def test_dense_exclusions_and_a_strided_table(cut):
    case = make_catalog_case(SHAPE)
    exclude = torch.randint(-1, SHAPE[1], (SHAPE[0], 200), generator=torch.Generator())
    case = case._replace(exclude=exclude, table=case.table.T.contiguous().T)
    want = results(case)
    cut(3000)
    assert_same(results(case), want)


def test_non_finite_scores(cut):
    nan, inf = torch.nan, torch.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [0.0], [inf], [-0.0], [1.0]])
    targets = torch.tensor([1, 2, 3, 4, 6])
    case = CatalogCase(torch.ones(5, 1), table, targets, None, None, None)
    want = results(case._replace(table=table))
    for rows in (1, 2, 3):
        cut(4 * rows)
        assert_same(results(case), want)


def test_everything_is_excluded(cut):
    cut(1)
    query, table = torch.ones(2, 3), torch.ones(5, 3)
    scores, ids = rk.topk_catalog(query, table, 5, torch.arange(5).expand(2, -1))
    assert (ids == -1).all()
    assert (scores == -torch.inf).all()
    counts = rk.rank_catalog(query, table, torch.tensor([0, 4]), torch.arange(5).expand(2, -1))
    assert torch.stack(tuple(counts), 1).tolist() == [[0, 0, 1]] * 2
    assert rk.topk_catalog(query[:0], table, 2)[1].shape == (0, 2)
    assert rk.reward_catalog(query[:0], table, torch.empty(0).long()).shape == (0, 1)


INVALID = torch.ones(9, dtype=torch.bool)
INVALID[4] = False


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": torch.tensor([1, 9])},
        {"targets": torch.tensor([-1, 1])},
        {"targets": torch.tensor([4, -1]), "valid": INVALID},
        {"targets": torch.tensor([1, 4]), "valid": INVALID},
        {"exclude": torch.tensor([[1, 2], [3, 9]])},
        {"exclude": rk.RaggedIds.from_lists([[1, -2], []])},
        {"exclude": rk.RaggedIds(torch.tensor([1]), torch.tensor([0, 2, 1]))},
    ],
    ids=str,
)
def test_errors_are_those_of_the_whole(cut, changes):
    arguments = {
        "query": torch.ones(2, 4),
        "table": torch.ones(9, 4),
        "targets": torch.tensor([1, 2]),
    } | changes
    calls = [lambda: rk.rank_catalog(**arguments), lambda: rk.reward_catalog(**arguments)]
    if "exclude" in changes:
        best = {name: arguments[name] for name in ("query", "table", "exclude")}
        calls.append(lambda: rk.topk_catalog(**best, k=2))
    for call in calls:
        cut(1 << 30)
        with pytest.raises((IndexError, ValueError)) as whole:
            call()
        cut(16)
        with pytest.raises(whole.type) as sliced:
            call()
        assert str(sliced.value) == str(whole.value)


def test_compilers_and_fake_tensors_get_the_plain_operators(cut):
    case = make_catalog_case(SHAPE, exclusions=True)
    cut(1)

    def step(query, table, targets):
        counts = rk.rank_catalog(query, table, targets)
        rewards = rk.reward_catalog(query, table, targets, None, ("mrr",))
        return counts, rewards, rk.topk_catalog(query, table, 3)

    arguments = (case.query, case.table, case.targets)
    got, want = torch.compile(step, fullgraph=True)(*arguments), step(*arguments)
    assert_counts(rk.RankCounts(*got[0]), want[0])
    torch.testing.assert_close(got[1:], want[1:])
    with FakeTensorMode():
        query, table = torch.randn(3, 8), torch.randn(10, 8)
        counts, rewards, best = step(query, table, torch.zeros(3, dtype=torch.int32))
        assert counts.total.shape == (3,)
        assert rewards.shape == (3, 1)
        assert best[1].shape == (3, 3)


def test_only_long_work_shows_a_progress_bar(cut, monkeypatch, capsys):
    case = make_catalog_case(SHAPE)
    cut(5000)
    results(case)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(_blocks, "_LONG_WORK", 1000)
    results(case)
    bars = capsys.readouterr().err
    assert "ranking: 100%" in bars
    assert "searching: 100%" in bars


def test_a_mapped_table_is_never_copied(tmp_path):
    """Through an index, the service's and the evaluation's path: anonymous memory does not grow.

    Pages of the file that are mapped meanwhile do not count: the system takes them back at will.
    """
    path = tmp_path / "index.safetensors"
    table = torch.randn(1, 256).expand(400_000, -1).to(F16).contiguous()  # 200 MB
    table[0] = 0
    rk.ItemIndex.from_embeddings(table).save(path)
    script = f"""
import threading, torch, rl4rec_kernels as rk
from rl4rec_kernels.ops import _blocks
_blocks.SLICE_BYTES = 32 << 20

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0])

index = rk.ItemIndex.open({str(path)!r})
query, targets = torch.randn(8, 256), torch.arange(1, 9)
def work(table, valid):
    rk.topk_catalog(query, table, 10, valid=valid)
    rk.rank_catalog(query, table, targets, valid=valid)
    rk.evaluate(query, table, targets, valid=valid, num_bootstrap=2)

work(index.table[:100], None)  # the fixed costs of the first call
targets = torch.arange(1, 9) * 40_000
before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
work(index.table, index.valid)
done.set()
watcher.join()
print(max(peak, anonymous()) - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50_000, f"{run.stdout} KiB more for a table of 200,000"
