"""Inputs on which the catalog operators are held against ops/reference.py."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rl4rec_kernels as rk
from tests.ops.cases import DTYPES, F32, label

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
    """Build a case; `exact` is as in `make_case`. Exclusions hold repeats, targets and padding."""
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
