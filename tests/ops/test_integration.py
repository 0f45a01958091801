"""The candidate operators inside torch: gradients, opcheck, torch.compile, fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rl4rec_kernels as rk
from benchmarks.memory import peak_growth
from rl4rec_kernels.ops import reference
from tests.errors import raises
from tests.ops.cases import DTYPES, Case, make_case

CASES = [
    make_case((4, 9, 12, 10), exact=False),
    make_case((4, 9, 12, 10), exact=False, ragged=True, ids_dtype=torch.int32),
]


@pytest.mark.filterwarnings("ignore:Input #")
@pytest.mark.parametrize("case", CASES, ids=["dense", "ragged"])
def test_gradcheck(case: Case):
    """Scores are bilinear, so a difference quotient is exact for any step: float32 will do."""
    query, table = case.query.requires_grad_(), case.table.requires_grad_()

    def scores(query, table):
        return rk.score_candidates(query, table, case.candidates).nan_to_num(neginf=0)

    assert torch.autograd.gradcheck(scores, (query, table), eps=0.5, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_equal_autograd_of_the_reference(dtypes, ragged):
    case = make_case((7, 300, 40, 45), dtypes, ragged=ragged)
    grad = torch.randint(-2, 3, case.ids.shape).float()  # whole numbers: sums are exact
    results = []
    for op in (rk.score_candidates, lambda q, t, c: reference.score_candidates(q, t, *case[2:])):
        query, table = case.query.clone().requires_grad_(), case.table.clone().requires_grad_()
        scores = op(query, table, case.candidates)
        scores.backward(grad.to(scores.dtype))
        assert query.grad.dtype == query.dtype
        assert table.grad.dtype == table.dtype
        results.append((query.grad, table.grad))
    for got, want in zip(*results, strict=True):
        if got.dtype == torch.float32:
            assert torch.equal(got, want)
        else:  # the reference rounds each addition to the low precision, we only the sum
            torch.testing.assert_close(got, want, rtol=2e-2, atol=0.5)


def test_the_gradient_of_the_table_does_not_depend_on_threads():
    case = make_case((64, 100, 30, 33), exact=False)
    grads = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            table = case.table.clone().requires_grad_()
            rk.score_candidates(case.query, table, case.ids).nan_to_num(neginf=0).sum().backward()
            grads.append(table.grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*grads)


@pytest.mark.parametrize("case", CASES, ids=["dense", "ragged"])
def test_opcheck(case: Case):
    ops = torch.ops.rl4rec
    args = (case.query.detach(), case.table.detach(), case.ids, case.offsets)
    with_grad = (args[0].clone().requires_grad_(), args[1].clone().requires_grad_(), *args[2:])
    grad = torch.randn(case.ids.shape)
    torch.library.opcheck(ops.score_candidates.default, with_grad)
    torch.library.opcheck(ops.score_candidates_grad_query.default, (grad, *args))
    torch.library.opcheck(ops.score_candidates_grad_table.default, (grad, *args))
    torch.library.opcheck(ops.rank_candidates.default, args)
    torch.library.opcheck(ops.reward_candidates.default, (*args, [0, 3], [10, 1], 3))


@pytest.mark.parametrize("case", CASES, ids=["dense", "ragged"])
def test_compile_without_graph_breaks(case: Case):
    def step(query, table, candidates):
        scores = rk.score_candidates(query * 2, table, candidates)
        counts = rk.rank_candidates(query, table, candidates)
        rewards = rk.reward_candidates(query, table, candidates, ("ndcg@10", "mrr"))
        return scores, counts, rewards, rk.metrics_from_counts(counts, ("ndcg@3", "logrank"))

    query, table = case.query.detach().requires_grad_(), case.table.detach()
    compiled = torch.compile(step, fullgraph=True)
    got, want = (f(query, table, case.candidates) for f in (compiled, step))
    torch.testing.assert_close(got, want)
    got[0].nan_to_num(neginf=0).sum().backward()
    assert query.grad.abs().sum() > 0


def test_fake_tensors_have_the_right_shapes():
    with FakeTensorMode():
        query, table = torch.randn(3, 8), torch.randn(10, 8)
        ids = torch.zeros(3, 5, dtype=torch.int32)
        assert rk.score_candidates(query, table, ids).shape == (3, 5)
        assert [c.dtype for c in rk.rank_candidates(query, table, ids)] == [torch.int64] * 3
        assert rk.reward_candidates(query, table, ids, ("mrr", "auc")).shape == (3, 2)


def test_a_second_derivative_is_rejected():
    case = CASES[0]
    query = case.query.detach().clone().requires_grad_()
    scores = rk.score_candidates(query, case.table.detach(), case.candidates).nan_to_num(neginf=0)
    (grad,) = torch.autograd.grad((scores**2).sum(), query, create_graph=True)
    with raises(NotImplementedError, "differentiated once"):
        grad.sum().backward()


def test_rewards_carry_no_gradient():
    case = CASES[0]
    query = case.query.detach().clone().requires_grad_()
    assert not rk.reward_candidates(query, case.table, case.candidates).requires_grad


def test_no_memory_is_used_for_scores_or_gathered_rows():
    """Peak memory of the process must not grow by a [B, C] float matrix, far less by [B, C, D]."""
    setup = """
import torch, rl4rec_kernels as rk
query, table = torch.randn(4096, 64), torch.randn(5000, 64)
ids = torch.randint(0, 5000, (4096, 4000), dtype=torch.int32)
rk.rank_candidates(query[:8], table, ids[:8])
rk.reward_candidates(query[:8], table, ids[:8])
"""
    mib = peak_growth(
        setup, "rk.rank_candidates(query, table, ids); rk.reward_candidates(query, table, ids)"
    )
    assert mib < 4, f"{mib:.1f} MiB; a [B, C] matrix of scores alone would be 62"
