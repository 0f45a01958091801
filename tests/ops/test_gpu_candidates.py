"""The candidate operators' GPU backends against their definition, on a GPU or as if on one."""

import itertools
import math

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.metrics import parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends, reference
from tests.errors import raises
from tests.gpu.cases import some
from tests.ops.cases import ALL, DTYPES, METRICS, TIES, huge_table, label, make_case, strided
from tests.ops.catalog_cases import assert_counts
from tests.ops.gpu import DEVICE, Backend, moved
from tests.ops.test_arguments import IDS, QUERY, TABLE, ragged_with


@pytest.fixture(params=["triton", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Each GPU backend; without a GPU the CUDA kernels' PTX is executed on the CPU."""
    if request.param == "cuda" and DEVICE == "cpu":
        emulated = request.getfixturevalue("emulated")
        monkeypatch.setattr(_backends, "runs_on_cpu", lambda backend: True)
        monkeypatch.setattr(_backends, "has_cuda_library", lambda: True)
        monkeypatch.setattr(_backends, "kernels", lambda backend: emulated.raw)
    return Backend(request.param)


@pytest.mark.parametrize("spec", some(ALL, 7), ids=label)
def test_whole_numbers_give_exactly_the_reference(backend, spec):
    if backend.name == "cuda" and ALL.index(spec) % 21:
        pytest.skip("tests/cuda has all cases of these kernels")
    case = make_case(**spec)
    args = case.query, case.table, case.candidates
    assert torch.equal(backend.score_candidates(*args), reference.score_candidates(*case).float())
    assert_counts(backend.rank_candidates(*args), reference.rank_candidates(*case))
    got = backend.reward_candidates(*args, METRICS)
    want = reference.reward_candidates(*case, parse_metrics(METRICS), parse_ties("expected"))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


# Each rule with one of both, then with the other one.
TIED = [(ties, i % 2 == j) for i, ties in enumerate(TIES) for j in (1, 0)]


@pytest.mark.parametrize(("ties", "ragged"), some(TIED, 2))
def test_tie_rules(backend, ties, ragged):
    """Of short ties and of long ones; the rows are cut into several chunks."""
    case = make_case((3, 513, 60, 2), ragged=ragged)
    got = backend.reward_candidates(case.query, case.table, case.candidates, METRICS, ties)
    want = reference.reward_candidates(*case, parse_metrics(METRICS), parse_ties(ties))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)


def test_many_metrics(backend):
    case = make_case((2, 9, 11, 5))
    names = [f"mrr@{k}" for k in range(1, 71)]
    args = case.query, case.table, case.candidates
    want = rk.reward_candidates(*args, names)
    torch.testing.assert_close(backend.reward_candidates(*args, names), want)


@pytest.mark.parametrize("spec", some(ALL[::9], 3), ids=label)
def test_real_numbers_stay_within_rounding(backend, spec):
    case = make_case(**spec, exact=False)
    args = case.query, case.table, case.candidates
    scores = backend.score_candidates(*args)
    want = reference.score_candidates(*case)
    magnitude = reference.score_candidates(case.query.abs(), case.table.abs(), *case[2:])
    bound = magnitude.nan_to_num(neginf=0) * case.query.shape[1] * 2.0**-24
    assert ((scores.double() - want).nan_to_num(0).abs() <= bound).all()
    # Ranks are those of the scores that score_candidates returns.
    assert_counts(backend.rank_candidates(*args), reference.rank_candidates(*case, scores=scores))


@pytest.mark.parametrize("dtypes", some(DTYPES, 2), ids=str)
def test_a_score_depends_on_its_query_and_item_only(backend, dtypes):
    case = make_case((4, 150, 300, 77), dtypes, exact=False, padding=0)
    scores = backend.score_candidates(case.query, case.table, case.ids)
    order = torch.randperm(150)
    shuffled = backend.score_candidates(case.query, case.table, case.ids[:, order])
    assert torch.equal(shuffled, scores[:, order])
    alone = backend.score_candidates(case.query[2:3], case.table, case.ids[2:3, 7:8])
    assert torch.equal(alone, scores[2:3, 7:8])


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_non_finite_scores(backend, dtypes):
    nan, inf = math.nan, math.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [2.0], [inf]]).to(dtypes[1])
    query = torch.ones(4, 1, dtype=dtypes[0])
    ids = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 4, 5], [3, 0, 1, 4, 5]])
    counts = backend.rank_candidates(query, table, ids)
    want = [[2, 0, 5], [4, 0, 5], [0, 1, 5], [3, 0, 5]]  # a NaN competitor is not above -inf
    assert torch.stack(tuple(counts), 1).tolist() == want


@pytest.mark.parametrize("how", ["transposed", "sliced", "stepped"])
@pytest.mark.parametrize("which", ["query", "table", "ids"])
def test_memory_layout_does_not_matter(backend, which, how):
    case = moved(make_case((5, 40, 30, 37), exact=False), DEVICE)  # moving makes a tensor dense
    other = case._replace(**{which: strided(getattr(case, which), how)})
    assert not getattr(other, which).is_contiguous()
    got = backend.score_candidates(other.query, other.table, other.candidates)
    want = backend.score_candidates(case.query, case.table, case.candidates)
    torch.testing.assert_close(got, want)


def test_tables_beyond_two_to_the_31_values(backend, tmp_path):
    if DEVICE == "cuda":
        pytest.skip("the table is a sparse file; test_on_gpu.py has one on the GPU")
    table, used = huge_table(tmp_path)
    query = torch.randint(-2, 3, (3, table.shape[1])).float()
    ids = used.expand(3, -1)
    want = reference.score_candidates(query, table, ids).float()
    assert torch.equal(backend.score_candidates(query, table, ids), want)


@pytest.mark.parametrize(
    ("dtypes", "ragged"), some([*itertools.product(DTYPES, (False, True))], 3), ids=str
)
def test_gradients(backend, dtypes, ragged):
    case = make_case((5, 70, 13, 33), dtypes, ragged=ragged, exact=False)
    weights = torch.randn(case.ids.shape)

    def gradients(query, table, candidates, name: str):
        query, table = query.requires_grad_(), table.requires_grad_()
        scores = rk.score_candidates(query, table, candidates, backend=name)
        loss = (scores.masked_fill(scores == -math.inf, 0) * weights.to(scores.device)).sum()
        return torch.autograd.grad(loss, (query, table))

    found = gradients(*(moved(t, DEVICE) for t in (*case[:2], case.candidates)), backend.name)
    want = gradients(
        case.query.detach().float(), case.table.detach().float(), case.candidates, "reference"
    )
    for grad, exact, dtype in zip(found, want, dtypes, strict=True):
        assert grad.dtype == dtype
        tolerance = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(grad.float().cpu(), exact, rtol=tolerance, atol=1e-5)


def test_a_second_derivative_is_rejected(backend):
    query = QUERY.to(DEVICE).requires_grad_()
    table, ids = TABLE.to(DEVICE), IDS.to(DEVICE)
    scores = rk.score_candidates(query, table, ids, backend=backend.name)
    (grad,) = torch.autograd.grad((scores**2).sum(), query, create_graph=True)
    with raises(NotImplementedError, "differentiated once"):
        grad.sum().backward()


BAD_IDS = [
    (torch.tensor([[0, 1], [2, 5]]), IndexError, ("candidates", "id 5", "row 1", "column 1")),
    (torch.tensor([[0, -2], [9, 5]]), IndexError, ("candidates", "id -2", "row 0", "column 1")),
    (torch.tensor([[2**40, 0]] * 2), IndexError, ("candidates", f"id {2**40}")),
    (ragged_with(0, 1, 2), ValueError, ("candidates", "offsets", "end at 3")),
    (ragged_with(1, 1, 3), ValueError, ("candidates", "offsets", "start at 0")),
    (ragged_with(0, 4, 3), ValueError, ("candidates", "offsets[1]", 4)),
    (ragged_with(0, -(2**40), 3), ValueError, ("candidates", "offsets[1]", -(2**40))),
]
NO_TARGET = [
    (torch.tensor([[0, -1], [-1, 2]]), ValueError, ("candidates", "row 1", -1)),
    (ragged_with(0, 0, 3), ValueError, ("candidates", "row 0", "empty")),
    (torch.empty(2, 0, dtype=torch.int64), ValueError, ("candidates", "row 0", "empty")),
]


@pytest.mark.parametrize(("candidates", "error", "named"), BAD_IDS + NO_TARGET)
@pytest.mark.parametrize("operator", ["score_candidates", "rank_candidates", "reward_candidates"])
def test_bad_ids_raise_what_the_cpu_raises(backend, operator, candidates, error, named):
    if operator == "score_candidates" and (error, named) in [entry[1:] for entry in NO_TARGET]:
        backend.score_candidates(QUERY, TABLE, candidates)  # needs no target
        return
    with raises(error, *named):
        getattr(backend, operator)(QUERY, TABLE, candidates)


@pytest.mark.parametrize(("candidates", "error", "named"), BAD_IDS[:3] + NO_TARGET[:2])
def test_unchecked_bad_ids_do_not_look_good(backend, candidates, error, named):
    with rk.ops.unchecked_ids():
        counts = backend.rank_candidates(QUERY, TABLE, candidates)
        rewards = backend.reward_candidates(QUERY, TABLE, candidates, ("ndcg@10", "rank"))
    bad = counts.total < 0
    assert bad.any()
    assert torch.equal(rewards.isnan(), bad[:, None].expand(2, 2))
    with raises(error, *named):  # the check is back
        backend.rank_candidates(QUERY, TABLE, candidates)


@pytest.mark.parametrize("ragged", [False, True])
def test_opcheck(backend, ragged):
    case = make_case((3, 9, 11, 5), ragged=ragged, exact=False)
    args = [moved(part, DEVICE) for part in case]
    check, ops = torch.library.opcheck, backend.ops
    check(ops.score_candidates.default, args)
    differentiable = [t.clone().requires_grad_() for t in args[:2]] + args[2:]
    check(ops.score_candidates.default, differentiable)
    check(ops.rank_candidates.default, args)
    check(ops.reward_candidates.default, (*args, [0, 2], [10, 1], 3))


def test_compile_without_graph_breaks(backend):
    case = make_case((3, 9, 11, 5), exact=False)

    def step(query, table, ids):
        scores = rk.score_candidates(query * 2, table, ids, backend=backend.name)
        return scores, rk.rank_candidates(query, table, ids, backend=backend.name)

    torch.compiler.reset()
    args = [moved(part, DEVICE) for part in case[:3]]
    compiled = torch.compile(step, fullgraph=True)
    torch.testing.assert_close(compiled(*args), step(*args))


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_autocast_widens_the_query(device):
    case = make_case((3, 9, 11, 8), exact=False)
    query, table, ids = (moved(t, device) for t in case[:3])
    with torch.autocast(device, dtype=torch.bfloat16):
        projected = torch.nn.functional.linear(query, torch.eye(8, device=device))
        assert projected.dtype == torch.bfloat16
        scores = rk.score_candidates(projected, table, ids)
    assert torch.equal(scores, rk.score_candidates(projected.float(), table, ids))
    with raises(TypeError, "query", "bfloat16", "table", "float32"):
        rk.score_candidates(projected, table, ids)
