"""Derivatives of the operators by torch.func and in forward mode: right, or an error."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import rl4rec_kernels as rk
from tests.errors import raises
from tests.ops.cases import BF16, F32
from tests.ops.gpu import DEVICE

BACKENDS = ["auto", "triton", "reference"]
IDS = torch.tensor([[0, 1, -1], [2, 4, 4], [5, 0, 1]], device=DEVICE)
RAGGED = rk.RaggedIds(
    torch.tensor([0, 1, -1, 5, 2], device=DEVICE), torch.tensor([0, 3, 3, 5], device=DEVICE)
)
CANDIDATES = pytest.mark.parametrize("candidates", [IDS, RAGGED], ids=["matrix", "ragged"])


def embeddings(dtype: torch.dtype = F32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Small whole numbers, whose products and sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    query, table = (torch.randint(-3, 4, (n, 5), generator=generator) for n in (3, 6))
    return query.to(DEVICE, F32), table.to(DEVICE, dtype)


def plain(query: Tensor, table: Tensor, candidates: Tensor | rk.RaggedIds) -> Tensor:
    """The scores in torch's own operators; padding scores 0."""
    if isinstance(candidates, rk.RaggedIds):
        ids, lengths = candidates.values, candidates.offsets.diff()
        query = query[torch.arange(3, device=DEVICE).repeat_interleave(lengths)]
    else:
        ids, query = candidates, query[:, None]
    scores = (query.float() * table[ids.clamp(min=0)].float()).sum(-1)
    return torch.where(ids == -1, 0.0, scores)


def finite(query: Tensor, table: Tensor, candidates: Tensor | rk.RaggedIds, backend: str) -> Tensor:
    scores = rk.score_candidates(query, table, candidates, backend=backend)
    return scores.masked_fill(scores == -torch.inf, 0)


@CANDIDATES
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tangent_of_scores(backend, dtype, candidates):
    inputs, tangents = embeddings(dtype), embeddings(dtype, seed=1)
    scores, tangent = torch.func.jvp(
        lambda *pair: rk.score_candidates(*pair, candidates, backend=backend), inputs, tangents
    )
    want = torch.func.jvp(lambda *pair: plain(*pair, candidates), inputs, tangents)[1]
    assert torch.equal(tangent, want)
    assert tangent.any()
    assert torch.equal(scores, rk.score_candidates(*inputs, candidates, backend=backend))
    for dual in ((True, False), (False, True)):
        with forward_ad.dual_level():
            pair = [
                forward_ad.make_dual(x, t) if is_dual else x
                for x, t, is_dual in zip(inputs, tangents, dual, strict=True)
            ]
            scores = rk.score_candidates(*pair, candidates, backend=backend)
            found = forward_ad.unpack_dual(scores).tangent
        part = [t if is_dual else 0 * t for t, is_dual in zip(tangents, dual, strict=True)]
        want = torch.func.jvp(lambda *pair: plain(*pair, candidates), inputs, tuple(part))[1]
        assert torch.equal(found, want)


@CANDIDATES
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "linearize", "vmap of grad"])
def test_transforms_of_torch_func(backend, transform, candidates):
    inputs, func = embeddings(), torch.func

    def derivative(score):
        if transform == "grad":
            return func.grad(lambda *pair: (score(*pair) ** 2).sum(), (0, 1))(*inputs)
        if transform == "linearize":
            return (func.linearize(score, *inputs)[1](*embeddings(seed=1)),)
        if transform == "vmap of grad":
            one = func.grad(lambda query: (score(query, inputs[1]) ** 2).sum())
            return (func.vmap(one)(torch.stack([inputs[0], 2 * inputs[0]])),)
        return getattr(func, transform)(score, (0, 1))(*inputs)

    found = derivative(lambda *pair: finite(*pair, candidates, backend))
    want = derivative(lambda *pair: plain(*pair, candidates))
    assert all(map(torch.equal, found, want))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_vmap_gives_what_single_calls_give(backend):
    (query, table), targets = embeddings(), IDS[:, 0]
    calls = [
        lambda q: rk.score_candidates(q, table, IDS, backend=backend),
        lambda q: rk.rank_candidates(q, table, IDS, backend=backend).above,
        lambda q: rk.reward_candidates(q, table, IDS, backend=backend),
        lambda q: rk.rank_catalog(q, table, targets, backend=backend).above,
        lambda q: rk.reward_catalog(q, table, targets, backend=backend),
        lambda q: rk.topk_catalog(q, table, 2, backend=backend)[1],
    ]
    for call in calls:
        found = torch.func.vmap(call)(torch.stack([query, -query]))
        assert torch.equal(found, torch.stack([call(query), call(-query)]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_a_second_derivative_is_rejected(backend):
    query, table = embeddings()

    def loss(query):
        return (finite(query, table, IDS, backend) ** 2).sum()

    for transform in (torch.func.hessian, lambda f: torch.func.grad(lambda q: f(q).sum())):
        with raises(NotImplementedError, "score_candidates", "once"):
            transform(torch.func.grad(loss))(query)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_best_items_have_no_derivative(backend):
    query, table = embeddings()

    def best(query):
        return rk.topk_catalog(query, table, 2, backend=backend)[0]

    def search(query):
        _, ids = rk.topk_catalog(query.detach(), table, 2, backend=backend)
        return rk.score_candidates(query, table, ids, backend=backend)

    for differentiate in (
        lambda f: torch.func.jvp(f, (query,), (query,))[1],
        lambda f: torch.func.grad(lambda q: f(q).sum())(query),
    ):
        with raises(NotImplementedError, "topk_catalog", "score_candidates"):
            differentiate(best)
        assert differentiate(search).any()
    assert not best(query.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_ranks_and_rewards_are_constant(backend):
    (query, table), targets = embeddings(), IDS[:, 0]
    calls = [
        lambda q: rk.rank_candidates(q, table, IDS, backend=backend).above,
        lambda q: rk.reward_candidates(q, table, IDS, backend=backend),
        lambda q: rk.rank_catalog(q, table, targets, backend=backend).above,
        lambda q: rk.reward_catalog(q, table, targets, backend=backend),
    ]
    for call in calls:
        result = call(query.clone().requires_grad_())
        assert not result.requires_grad
        found, tangent = torch.func.jvp(call, (query,), (query,))
        assert torch.equal(found, result)
        assert not tangent.any()


def test_a_compiled_function_is_right_or_says_that_it_is_not_compiled():
    query, table = embeddings()

    def tangent(query, table, query_t):
        return torch.func.jvp(lambda q: finite(q, table, IDS, "auto"), (query,), (query_t,))[1]

    torch.compiler.reset()
    want = tangent(query, table, query)
    assert want.any()
    assert torch.equal(torch.compile(tangent, backend="aot_eager")(query, table, query), want)
