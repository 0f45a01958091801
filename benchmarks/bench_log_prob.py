"""Log-probabilities of targets, and training with them: our kernels, and torch, eager and compiled.

Torch computes all scores, and their log-softmax. The limit of the forward pass is the rank in the
catalog, which needs the same scores, or the fastest product that gives them as exactly: torch's own
in float32, or four in bfloat16 (two parts of the items, three of the queries); CPUs with AMX
compute six in int8 here. A step of training needs three products, of which two take three in
bfloat16. A million items are scored for fewer queries and without torch.compile: that takes minutes
less.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import rl4rec_kernels as rk
from benchmarks.data import gaussian
from benchmarks.memory import peak_growth
from rl4rec_kernels.ops import rank_with_log_prob

D = 384
QUERIES = {12_102: 1024, 1_000_000: 128}  # by the number of items
ROUNDS = {12_102: 15, 1_000_000: 2}
TEMPERATURE = 20.0  # of dot products of Gaussian embeddings: probabilities of all sizes


@functools.lru_cache(maxsize=1)
def data(num_items: int, *columns: int) -> tuple[Tensor, ...]:
    query, table, targets = gaussian(QUERIES[num_items], num_items, D, *columns)
    return query.requires_grad_(), table.requires_grad_(), targets


@functools.lru_cache(maxsize=1)
def as_bfloat16(num_items: int) -> tuple[Tensor, ...]:
    query, table, targets = data(num_items)
    return (
        query.detach().bfloat16().requires_grad_(),
        table.detach().bfloat16().requires_grad_(),
        targets,
    )


def sizes(num_items: int) -> str:
    return f"B={QUERIES[num_items]:,}, N={num_items:,}, D={D}"


def torch_catalog(query: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(query @ table.T / TEMPERATURE, targets, reduction="none")


def our_catalog(query: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return rk.log_prob_catalog(query, table, targets, None, TEMPERATURE)


def torch_candidates(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    scores = torch.einsum("bd,bcd->bc", query, table[candidates]) / TEMPERATURE
    return scores.log_softmax(1)[:, 0]


def our_candidates(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    return rk.log_prob_candidates(query, table, candidates, TEMPERATURE)


def products(query: Tensor, table: Tensor, count: int) -> None:
    for _ in range(count):
        query.detach() @ table.detach().T


def float32_product(query: Tensor, table: Tensor, _: Tensor) -> None:
    products(query, table, 1)


def bfloat16_products(query: Tensor, table: Tensor, _: Tensor) -> None:
    products(query.bfloat16(), table.bfloat16(), 4 if query.dtype == torch.float32 else 1)


def our_two_calls(query: Tensor, table: Tensor, targets: Tensor) -> None:
    rk.rank_catalog(query, table, targets)
    our_catalog(query, table, targets)


def our_one_pass(query: Tensor, table: Tensor, targets: Tensor) -> None:
    rank_with_log_prob(query, table, targets, None, TEMPERATURE)


CATALOG: dict[str, tuple[str, Callable[..., Any]]] = {
    "log_prob_catalog": ("ours", our_catalog),
    "rank_catalog": ("limit", rk.rank_catalog),
    "torch matmul": ("limit", float32_product),
    "torch matmul of all bfloat16 parts": ("limit", bfloat16_products),
    "torch matmul and cross_entropy": ("peer", torch_catalog),
    "torch.compile matmul and cross_entropy": ("peer", torch.compile(torch_catalog)),
}
CANDIDATES: dict[str, tuple[str, Callable[..., Any]]] = {
    "log_prob_candidates": ("ours", our_candidates),
    "rank_candidates": ("limit", rk.rank_candidates),
    "torch einsum and log_softmax": ("peer", torch_candidates),
    "torch.compile einsum and log_softmax": ("peer", torch.compile(torch_candidates)),
}


def step(function: Callable[..., Tensor], query: Tensor, table: Tensor, ids: Tensor) -> None:
    torch.autograd.grad(-function(query, table, ids).mean(), (query, table))


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("num_items", QUERIES)
def test_catalog(
    contest: Callable[..., Any], num_items: int, name: str, dtype: torch.dtype, backward: bool
) -> None:
    role, function = CATALOG[name]
    if backward and role == "limit":
        pytest.skip("has no gradient")
    if "compile" in name and num_items > 10**5:
        pytest.skip("takes too long")
    arguments = data(num_items)
    if dtype == torch.bfloat16:
        arguments = as_bfloat16(num_items)
    what = "forward and backward of the log-probability" if backward else "log-probability"
    kind = "" if dtype == torch.float32 else ", bfloat16"
    group = f"{what} in the whole catalog, {sizes(num_items)}{kind}"
    run(contest, group, name, role, function, arguments, backward, ROUNDS[num_items])


BOTH: dict[str, tuple[str, Callable[..., Any]]] = {
    "rank_with_log_prob": ("ours", our_one_pass),
    "rank_catalog and log_prob_catalog": ("peer", our_two_calls),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("num_items", QUERIES)
def test_both(contest: Callable[..., Any], num_items: int, name: str) -> None:
    role, function = BOTH[name]
    group = f"rank and log-probability in the whole catalog, {sizes(num_items)}"
    run(contest, group, name, role, function, data(num_items), False, ROUNDS[num_items])


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "step"])
def test_candidates(contest: Callable[..., Any], name: str, backward: bool) -> None:
    role, function = CANDIDATES[name]
    if backward and role == "limit":
        pytest.skip("has no gradient")
    what = "forward and backward of the log-probability" if backward else "log-probability"
    group = f"{what} among 100 candidates, {sizes(12_102)}"
    run(contest, group, name, role, function, data(12_102, 100), backward, 15)


def run(
    contest: Callable[..., Any],
    group: str,
    name: str,
    role: str,
    function: Callable[..., Any],
    arguments: tuple[Tensor, ...],
    backward: bool,
    rounds: int,
) -> None:
    def forward() -> None:
        with torch.no_grad():
            function(*arguments)

    work = functools.partial(step, function, *arguments) if backward else forward
    contest(group, name, role, work, rounds=rounds)


MEMORY = """
import torch, rl4rec_kernels as rk
leaves = torch.randn(1024, 384, requires_grad=True), torch.randn(20_000, 384, requires_grad=True)
targets = torch.randint(20_000, (1024,))
def work(n):
    query, table = (leaf[:n] for leaf in leaves)
    torch.autograd.grad({call}.sum(), (query, table))
work(64)
"""
CALLS = {
    "log_prob_catalog": "rk.log_prob_catalog(query, table, targets[:n] % n)",
    "torch matmul and cross_entropy": "torch.nn.functional.cross_entropy("
    "query @ table.T, targets[:n] % n)",
}


@pytest.mark.parametrize("name", CALLS)
def test_memory(contest: Callable[..., Any], name: str) -> None:
    group = "memory of forward and backward, with the gradients, B=1,024, N=20,000, D=384"
    role = "ours" if name == "log_prob_catalog" else "peer"
    setup, work = MEMORY.format(call=CALLS[name]), "work(20_000)"
    contest(group, name, role, lambda: peak_growth(setup, work), memory=True)
