"""The catalog operators inside torch: opcheck, torch.compile, fake tensors, threads, processes."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

import rl4rec_kernels as rk
from benchmarks.memory import peak_growth
from tests.ops.catalog_cases import CASES, CatalogCase, make_catalog_case, tables


class Answers(NamedTuple):
    """Results of the three operators."""

    counts: rk.RankCounts
    rewards: Tensor
    scores: Tensor
    ids: Tensor


def ask(query, table, targets, exclude, valid, refine=False, k=5) -> Answers:
    options = {"valid": valid, "refine": refine}
    return Answers(
        rk.rank_catalog(query, table, targets, exclude, **options),
        rk.reward_catalog(query, table, targets, exclude, ("ndcg@10", "mrr"), **options),
        *rk.topk_catalog(query, table, k, exclude, **options),
    )


@pytest.fixture(autouse=True)
def _compile_anew():
    """Tests share code, which torch compiles a limited number of times."""
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["plain", "int8", "int8-refined", "bf16-refined"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck(case: CatalogCase, kind):
    table, refine = tables(case)[kind]
    quantized = isinstance(table, rk.QuantizedTable)
    values, row_stats, source = table if quantized else (table, None, None)
    source = source if refine else None
    query, targets, exclusions = case.query, case.targets, (case.exclude, case.offsets, case.valid)
    ops, check = torch.ops.rl4rec, torch.library.opcheck
    scores = ops.score_catalog_targets(query, values, targets, row_stats)
    check(ops.score_catalog_targets.default, (query, values, targets, row_stats))
    for own in (None, scores) if not refine else (None,):
        arguments = (query, values, targets, *exclusions, row_stats, source, own)
        check(ops.rank_catalog.default, arguments)
    arguments = (query, values, targets, *exclusions, row_stats, source, [0, 3], [10, 1], 3)
    check(ops.reward_catalog.default, arguments)
    check(ops.topk_catalog.default, (query, values, 7, *exclusions, row_stats, source))


@pytest.mark.parametrize("kind", ["plain", "int8", "int8-refined", "bf16-refined"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_compile_without_graph_breaks(case: CatalogCase, kind):
    table, refine = tables(case)[kind]
    query = case.query.clone().requires_grad_()

    def step(query, table, targets, exclude, valid):
        answers = ask(query * 2, table, targets, exclude, valid, refine)
        return *answers, rk.metrics_from_counts(answers.counts, ("hit@3", "logrank"))

    arguments = (query, table, case.targets, case.exclusions, case.valid)
    got, want = (f(*arguments) for f in (torch.compile(step, fullgraph=True), step))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_one_graph_serves_every_batch_size():
    compiled = torch.compile(ask, fullgraph=True, dynamic=True)
    cases = [make_catalog_case((n, 61, 12), exact=False, exclusions=True) for n in (4, 9, 33)]
    first, *others = [(c.query, c.table, c.targets, c.exclusions, c.valid) for c in cases]
    compiled(*first)
    with torch.compiler.set_stance("fail_on_recompile"):
        for arguments in others:
            torch.testing.assert_close(compiled(*arguments), ask(*arguments), rtol=0, atol=0)


@pytest.mark.parametrize("refine", [False, True])
def test_fake_tensors_have_the_right_shapes(refine):
    with FakeTensorMode():
        table = torch.randn(10, 8)
        if refine:
            copy = torch.zeros(10, 8, dtype=torch.int8)
            table = rk.QuantizedTable(copy, torch.zeros(10, 3), table)
        exclude = rk.RaggedIds(torch.zeros(5, dtype=torch.int32), torch.tensor([0, 2, 2, 5]))
        valid = torch.ones(10, dtype=torch.bool)
        targets = torch.zeros(3, dtype=torch.int64)
        answers = ask(torch.randn(3, 8), table, targets, exclude, valid, refine, k=4)
        assert [(c.shape, c.dtype) for c in answers.counts] == [((3,), torch.int64)] * 3
        assert (answers.rewards.shape, answers.rewards.dtype) == ((3, 2), torch.float32)
        assert (answers.scores.shape, answers.scores.dtype) == ((3, 4), torch.float32)
        assert (answers.ids.shape, answers.ids.dtype) == ((3, 4), torch.int64)
        values, row_stats = (table.values, table.row_stats) if refine else (table, None)
        scores = torch.ops.rl4rec.score_catalog_targets(
            torch.randn(3, 8), values, targets, row_stats
        )
        assert (scores.shape, scores.dtype) == ((3,), torch.float32)


@pytest.mark.parametrize("compiled", [False, True])
def test_results_carry_no_gradient(compiled):
    case = CASES["ragged"]
    query, table = (t.clone().requires_grad_() for t in (case.query, case.table))
    quantized = rk.quantize_table(table)._replace(source=table)
    call = torch.compile(ask, fullgraph=True) if compiled else ask
    for items, refine in ((table, False), (quantized, True)):
        answers = call(query, items, case.targets, case.exclusions, case.valid, refine)
        assert not any(part.requires_grad for part in (*answers.counts, *answers[1:]))
        want = ask(query.detach(), case.table, case.targets, case.exclusions, case.valid)
        torch.testing.assert_close(answers, want, rtol=0, atol=0)


def test_threads_get_their_own_answers():
    """Calls overlap, each with its own batch and exclusions, on shared tables."""
    shape = (40, 3001, 48)
    cases = [make_catalog_case(shape, exact=False, exclusions=True, seed=s) for s in range(24)]
    shared = list(tables(cases[0]).values())

    def call(i: int) -> Answers:
        case, (table, refine) = cases[i], shared[i % len(shared)]
        return ask(case.query, table, case.targets, case.exclusions, None, refine)

    want = [call(i) for i in range(len(cases))]
    order = list(range(len(cases))) * 4
    with ThreadPoolExecutor(12) as pool:
        for i, got in zip(order, pool.map(call, order), strict=True):
            torch.testing.assert_close(got, want[i], rtol=0, atol=0)


class Asking(Dataset):
    """A dataset whose samples come from the operators, as one that mines as it goes would do."""

    case = make_catalog_case((64, 3001, 48), exact=False, exclusions=True)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Answers:
        case = self.case
        table, refine = list(tables(case).values())[index % 4]
        return ask(case.query, table, case.targets, case.exclusions, case.valid, refine)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes(context):
    """Workers that were forked after the operators had run in several threads."""
    dataset = Asking()
    want = [dataset[i] for i in range(len(dataset))]
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=120
    )
    for got, expected in zip(loader, want, strict=True):
        torch.testing.assert_close(
            Answers(rk.RankCounts(*got[0]), *got[1:]), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize("refine", [False, True])
def test_memory_does_not_grow_with_the_scores(refine):
    setup = f"""
import torch, rl4rec_kernels as rk
query, table = torch.randn(2048, 16), torch.randn(100_000, 16)
items = rk.quantize_table(table) if {refine} else table
targets, exclude = torch.arange(2048), torch.randint(0, 100_000, (2048, 50))
options = {{"valid": torch.ones(100_000, dtype=torch.bool), "refine": {refine}}}
def ask(n):
    arguments = query[:n], items, targets[:n], exclude[:n]
    rk.rank_catalog(*arguments, **options)
    rk.reward_catalog(*arguments, **options)
    rk.topk_catalog(query[:n], items, 10, exclude[:n], **options)
ask(8)
"""
    mib = peak_growth(setup, "ask(2048)")
    assert mib < 64, f"{mib:.1f} MiB; a [B, N] matrix of scores alone would be 781"
