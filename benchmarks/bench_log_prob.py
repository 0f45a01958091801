"""Log-probabilities of targets, and training with them: our kernels, and torch, eager and compiled.

Torch computes all scores, and their log-softmax. The limit of the forward pass is the rank in the
catalog, which needs the same scores, or the fastest product that gives them as exactly: torch's own
in float32, or four in bfloat16 (two parts of the items, three of the queries); CPUs with AMX
compute six in int8 here. A step of training needs three products, of which two take three in
bfloat16. A million items are scored for fewer queries and without torch.compile: that takes minutes
less. Contestants are measured in turn, see benchmarks/in_turn.py.
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
SECONDS = 5.0  # of a table with many rounds
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


def forward(function: Callable[..., Any], *arguments: Tensor) -> None:
    with torch.no_grad():
        function(*arguments)


def step(function: Callable[..., Tensor], query: Tensor, table: Tensor, ids: Tensor) -> None:
    torch.autograd.grad(-function(query, table, ids).mean(), (query, table))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("num_items", QUERIES)
def test_catalog(
    contest_in_turn: Callable[..., Any], num_items: int, dtype: torch.dtype, backward: bool
) -> None:
    arguments = data(num_items)
    if dtype == torch.bfloat16:
        arguments = as_bfloat16(num_items)
    kind = "" if dtype == torch.float32 else ", bfloat16"
    group = f"{what(backward)} in the whole catalog, {sizes(num_items)}{kind}"
    chosen = CATALOG
    if num_items > 10**5:  # where compiling takes too long
        chosen = {name: own for name, own in CATALOG.items() if "compile" not in name}
    run(contest_in_turn, group, chosen, arguments, backward)


BOTH: dict[str, tuple[str, Callable[..., Any]]] = {
    "rank_with_log_prob": ("ours", our_one_pass),
    "rank_catalog and log_prob_catalog": ("peer", our_two_calls),
}


@pytest.mark.parametrize("num_items", QUERIES)
def test_both(contest_in_turn: Callable[..., Any], num_items: int) -> None:
    group = f"rank and log-probability in the whole catalog, {sizes(num_items)}"
    run(contest_in_turn, group, BOTH, data(num_items), False)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "step"])
def test_candidates(contest_in_turn: Callable[..., Any], backward: bool) -> None:
    group = f"{what(backward)} among 100 candidates, {sizes(12_102)}"
    run(contest_in_turn, group, CANDIDATES, data(12_102, 100), backward)


def what(backward: bool) -> str:
    return "forward and backward of the log-probability" if backward else "log-probability"


def run(
    contest_in_turn: Callable[..., Any],
    group: str,
    contestants: dict[str, tuple[str, Callable[..., Any]]],
    arguments: tuple[Tensor, ...],
    backward: bool,
) -> None:
    """Measure a group; limits have no gradient."""
    limits = [name for name, (role, _) in contestants.items() if role == "limit"]
    work = {
        name: functools.partial(step if backward else forward, function, *arguments)
        for name, (_, function) in contestants.items()
        if not (backward and name in limits)
    }
    contest_in_turn(group, work, limits=limits, cell_seconds=SECONDS)


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
