"""Levels of CPU features against each other, to the bit.

Every level with fused multiply-add computes the same float32 scores; `amx_emulated` runs the
kernels for AMX, float16 included, on instructions that are emulated, on any machine with AVX2.
"""

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels, use_cpu_level

FUSED = [level for level in cpu_levels() if level != "portable"]

pytestmark = pytest.mark.skipif(len(FUSED) < 2, reason="needs two levels with the same bits")


def draw(kind: str, num_queries: int, num_items: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Queries and items of a kind that bounds of approximate scores have to get right."""
    torch.manual_seed(num_queries + num_items + dim)
    query, table = torch.randn(num_queries, dim), torch.randn(num_items, dim)
    some = torch.rand(num_items) < 0.05
    if kind == "ties":
        query, table = query.round(), table.round()
    elif kind == "equal items":
        table = table[:1].repeat(num_items, 1)
    elif kind == "near items":
        table = table[:1] + 1e-4 * table
        query = table[:num_queries] if num_queries <= num_items else query
    elif kind == "nan":
        table[some], query[::7] = torch.nan, torch.nan
    elif kind == "infinite":
        table[some, 0], query[::5, 0] = torch.inf, -torch.inf
    elif kind == "huge":
        table[some], query[::5] = 1e20 * table[some], 1e17 * query[::5]
    elif kind == "subnormal":
        table, query = 1e-39 * table, 1e-3 * query
    elif kind == "float16 range":
        table, query = 1e-6 * table, 1e4 * query.clamp(-6, 6)
    return query, table


KINDS = ["normal", "ties", "equal items", "near items", "nan", "infinite", "huge", "subnormal"]

UNCACHED = 600_000  # values: the source of a smaller table is scored, not its copy


@pytest.mark.parametrize("kind", [*KINDS, "float16 range"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 600, 64), (6, 300, 40), (9, 520, 33), (16, 4000, 40), (100, 1500, 64)]
)
def test_levels_agree_to_the_bit(kind, dtype, shape):
    query, table = (part.to(dtype) for part in draw(kind, *shape))
    num_queries, num_items, _ = shape
    targets = torch.randint(num_items, (num_queries,))
    exclude = torch.randint(-1, num_items, (num_queries, 12))
    valid = torch.rand(num_items) < 0.9
    valid[targets] = True
    results = {}
    for level in FUSED:
        with use_cpu_level(level):
            counts = rk.rank_catalog(query, table, targets, exclude, valid=valid)
            best = rk.topk_catalog(query, table, 20, exclude, valid=valid)
            results[level] = (*counts, *best)
    expected = results.pop("avx2")
    for level, found in results.items():
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other), level


@pytest.mark.skipif("amx" not in cpu_levels(), reason="needs a CPU with AMX")
@pytest.mark.parametrize("kind", ["normal", "ties", "infinite", "huge", "subnormal"])
@pytest.mark.parametrize("shape", [(1, 200, 64), (17, 130, 40), (70, 300, 200)])
def test_the_emulation_of_amx_has_the_bits_of_the_instructions(kind, shape):
    query, table = draw(kind, *shape)
    targets = torch.arange(shape[0])
    tables = [table.bfloat16()]
    if kind not in ("infinite", "huge"):
        tables += [rk.quantize_table(table, dtype) for dtype in (torch.int8, torch.bfloat16)]
    for items in tables:
        queries = query.bfloat16() if isinstance(items, torch.Tensor) else query
        found = {}
        for level in ("amx", "amx_emulated"):
            with use_cpu_level(level):
                scores, ids = rk.topk_catalog(queries, items, shape[1])
                found[level] = (scores, ids, *rk.rank_catalog(queries, items, targets))
        for one, other in zip(found["amx"], found["amx_emulated"], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("kind", ["normal", "ties", "equal items", "near items"])
def test_refined_counts_are_those_of_the_source_at_every_level(kind, dtype):
    query, table = draw(kind, 100, 1500, 64)  # for fewer items, exact scores take less time
    targets = torch.randint(1500, (100,))
    copy = rk.quantize_table(table, dtype)
    for level in FUSED:
        with use_cpu_level(level):
            exact = rk.rank_catalog(query, table, targets)
            refined = rk.rank_catalog(query, copy, targets, refine=True)
            best = rk.topk_catalog(query, table, 5)
            refined_best = rk.topk_catalog(query, copy, 5, refine=True)
        for one, other in zip((*refined, *refined_best), (*exact, *best), strict=True):
            assert torch.equal(one, other), level


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("dim", [33, 384, 4100])
def test_few_refined_queries_have_the_counts_of_the_source_at_every_level(dim, dtype):
    num_items = UNCACHED // dim
    query, table = draw("near items", 8, num_items, dim)
    query[::2] *= 1e-15
    targets, valid = torch.randint(num_items, (8,)), torch.ones(num_items, dtype=torch.bool)
    valid[40:45] = False
    targets[targets // 5 == 8] = 0
    copy = rk.quantize_table(table, dtype)
    for level in cpu_levels():
        with use_cpu_level(level):
            for few in (1, 2, 3, 8):
                own = (query[:few], targets[:few])
                exact = rk.rank_catalog(own[0], table, own[1], valid=valid)
                refined = rk.rank_catalog(own[0], copy, own[1], valid=valid, refine=True)
                for one, other in zip(refined, exact, strict=True):
                    assert torch.equal(one, other), level


@pytest.mark.parametrize("kind", ["normal", "near items"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_what_runs_for_so_many_queries_does_not_change_results(kind, dtype):
    """Copies, their source or both are scored, by the cost of each."""
    query, table = draw(kind, 200, UNCACHED // 100, 100)
    targets = torch.randint(len(table), (200,))
    exclude = torch.randint(-1, len(table), (200, 12))
    copy = rk.quantize_table(table, dtype)
    with use_cpu_level("avx2"):
        exact = rk.rank_catalog(query, table, targets, exclude)
        best = rk.topk_catalog(query, table, 20, exclude)
    for level in FUSED:
        with use_cpu_level(level):
            for few in (5, 20, 200) if level != "amx_emulated" else (20,):
                own = (copy, targets[:few], exclude[:few])
                refined = rk.rank_catalog(query[:few], *own, refine=True)
                refined_best = rk.topk_catalog(query[:few], copy, 20, exclude[:few], refine=True)
                expected = [part[:few] for part in (*exact, *best)]
                for one, other in zip((*refined, *refined_best), expected, strict=True):
                    assert torch.equal(one, other), (level, few)
