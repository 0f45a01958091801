"""Inputs on which the catalog operators are compared with ops/reference.py."""

import itertools
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import reference
from tests.ops.cases import BF16, DTYPES, F32, label

# (B, N, D): ones, primes, around a tile's 12 and 24 items and a panel's 16 and 32 queries.
SHAPES = [
    (1, 1, 1),
    (1, 2, 0),
    (2, 23, 7),
    (16, 24, 31),
    (17, 25, 32),
    (31, 97, 33),
    (33, 401, 64),
    (5, 1031, 129),
    (67, 211, 384),
    (3, 2503, 16),
]


class CatalogCase(NamedTuple):
    """Arguments of the catalog operators, in the reference's order."""

    query: Tensor
    table: Tensor
    targets: Tensor
    exclude: Tensor | None
    offsets: Tensor | None
    valid: Tensor | None

    @property
    def exclusions(self) -> Tensor | rk.RaggedIds | None:
        if self.exclude is None or self.offsets is None:
            return self.exclude
        return rk.RaggedIds(self.exclude, self.offsets)

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.query, self.table, self.targets, self.exclusions


def make_catalog_case(
    shape: tuple[int, int, int],
    dtypes: tuple[torch.dtype, torch.dtype] = (F32, F32),
    *,
    ids_dtype: torch.dtype = torch.int64,
    exclusions: bool = False,
    exact: bool = True,
    seed: int = 0,
) -> CatalogCase:
    """Build a case; `exact` is as in `make_case`. Exclusions have repeats, targets and padding."""
    rows, num_items, dim = shape
    generator = torch.Generator().manual_seed(seed)

    def embeddings(n: int, dtype: torch.dtype) -> Tensor:
        if exact:
            return torch.randint(-2, 3, (n, dim), generator=generator).to(dtype)
        return torch.randn(n, dim, generator=generator).to(dtype)

    query, table = embeddings(rows, dtypes[0]), embeddings(num_items, dtypes[1])
    targets = torch.randint(0, num_items, (rows,), generator=generator)
    if not exclusions:
        return CatalogCase(query, table, targets.to(ids_dtype), None, None, None)
    lengths = torch.randint(0, 2 * num_items + 2, (rows,), generator=generator) // 3
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    exclude = torch.randint(-1, num_items, (int(offsets[-1]),), generator=generator)
    valid = torch.rand(num_items, generator=generator) < 0.9
    valid[targets] = True
    return CatalogCase(query, table, targets.to(ids_dtype), exclude.to(ids_dtype), offsets, valid)


ALL = [
    {"shape": shape, "dtypes": dtypes, "ids_dtype": ids_dtype, "exclusions": exclusions}
    for (shape, dtypes), (exclusions, ids_dtype) in zip(
        itertools.product(SHAPES, DTYPES),
        itertools.cycle(itertools.product((True, False), (torch.int64, torch.int32))),
        strict=False,
    )
]


def catalog_label(case: dict) -> str:
    name = label({**case, "ragged": case["exclusions"]})
    return name.replace("-ragged", "-excluding").replace("-dense", "")


def every_score(query: Tensor, table: Tensor, row_stats: Tensor | None = None) -> Tensor:
    """The score of every pair, as the one of a target: float32 [B, N]."""
    score = torch.ops.rl4rec.score_catalog_targets
    columns = [
        score(query, table, torch.full((len(query),), i), row_stats) for i in range(len(table))
    ]
    return torch.stack(columns, 1)


def assert_counts(got: rk.RankCounts, want: rk.RankCounts) -> None:
    for name, a, b in zip(rk.RankCounts._fields, got, want, strict=True):
        assert a.dtype == torch.int64
        assert a.tolist() == b.tolist(), name


def reference_best(
    case: CatalogCase, k: int, scores: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The reference's results of `topk_catalog`."""
    found, ids = reference.topk_catalog(case.query, case.table, k, *case[3:], scores=scores)
    return found.float(), ids


def assert_same(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    """Check results of `topk_catalog`."""
    assert got[0].dtype == torch.float32
    assert got[1].dtype == torch.int64
    assert got[1].tolist() == want[1].tolist()
    assert torch.equal(got[0], want[0])


def near_ties(dim: int, dtype: torch.dtype, seed: int) -> CatalogCase:
    """Items that differ from the targets by the last bits of float32 only, and by more."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(19, dim, generator=generator)
    base = torch.randn(7, dim, generator=generator)
    steps = torch.randint(-3, 4, (7, 60, dim), generator=generator)
    items = base[:, None] * (1 + steps * 2.0**-23)
    coarse = base[:, None] * (1 + steps[:, :20] * 2.0 ** -torch.arange(1, 21)[:, None])
    far = torch.randn(100, dim, generator=generator)
    table = torch.cat([items.reshape(-1, dim), coarse.reshape(-1, dim), far]).to(dtype)
    targets = torch.randint(0, 420, (19,), generator=generator)
    return CatalogCase(query, table, targets, None, None, None)


def tables(case: CatalogCase) -> dict[str, tuple[Tensor | rk.QuantizedTable, bool]]:
    """The table of a case in all its forms, and whether to refine."""
    int8, bf16 = rk.quantize_table(case.table), rk.quantize_table(case.table, BF16)
    return {
        "plain": (case.table, False),
        "int8": (int8, False),
        "int8-refined": (int8, True),
        "bf16-refined": (bf16, True),
    }


def dense(case: CatalogCase) -> CatalogCase:
    """The case with its ragged exclusions as a padded matrix."""
    rows = rk.RaggedIds(case.exclude, case.offsets).to_lists()
    width = max(map(len, rows))
    matrix = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    return case._replace(exclude=matrix, offsets=None)


RAGGED = make_catalog_case((5, 61, 12), exact=False, exclusions=True)
CASES = {
    "bare": make_catalog_case((5, 61, 12), exact=False),
    "ragged": RAGGED,
    "dense": dense(RAGGED),
    "int32": make_catalog_case((5, 61, 12), (F32, BF16), ids_dtype=torch.int32, exclusions=True),
}


def draw_histories(data: Any, max_length: int, max_queries: int) -> tuple[Any, ...]:
    """Draw query, table, targets, lists of excluded ids with padding, and a mask of the table."""
    num_items = data.draw(st.integers(1, 60))
    item = st.integers(0, num_items - 1)
    history = st.lists(item | st.just(-1), max_size=max_length)
    rows = data.draw(st.lists(history, min_size=1, max_size=max_queries))
    targets = torch.tensor([data.draw(item) for _ in rows])
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items)))
    valid[targets] = True
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(-2, 3, (len(rows), 5), generator=generator).float()
    table = torch.randint(-2, 3, (num_items, 5), generator=generator).float()
    return query, table, targets, rows, valid
