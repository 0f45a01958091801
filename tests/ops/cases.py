"""Inputs on which every backend is compared with ops/reference.py."""

import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rl4rec_kernels import RaggedIds

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
DTYPES = [(F32, F32), (F32, F16), (F32, BF16), (F16, F16), (BF16, BF16)]

METRICS = ("ndcg@1", "ndcg@10", "hit@5", "mrr@3", "mrr", "auc", "logrank", "rank")
TIES = ("expected", "optimistic", "pessimistic", "average")

# (B, C, N, D): zeros, ones, primes, around the kernel's step of 32 and its chunk of 512.
SHAPES = [
    (1, 1, 1, 1),
    (1, 2, 3, 0),
    (2, 3, 5, 7),
    (3, 17, 11, 31),
    (5, 7, 13, 32),
    (4, 19, 23, 33),
    (7, 101, 53, 64),
    (2, 1031, 97, 129),
    (3, 513, 401, 384),
    (61, 5, 41, 96),
    (1, 5003, 499, 40),
]


class Case(NamedTuple):
    """Arguments of the candidate operators; `offsets` is None for a matrix of ids."""

    query: Tensor
    table: Tensor
    ids: Tensor
    offsets: Tensor | None

    @property
    def candidates(self) -> Tensor | RaggedIds:
        return self.ids if self.offsets is None else RaggedIds(self.ids, self.offsets)


def make_case(
    shape: tuple[int, int, int, int],
    dtypes: tuple[torch.dtype, torch.dtype] = (F32, F32),
    *,
    ids_dtype: torch.dtype = torch.int64,
    ragged: bool = False,
    exact: bool = True,
    padding: float = 0.2,
    seed: int = 0,
) -> Case:
    """Build a case.

    With `exact`, embeddings are small whole numbers: every dtype and every order of additions
    gives the same scores, ties are frequent, and counts must equal the reference's to the last.
    Ids repeat, the target's among them.
    """
    rows, columns, num_items, dim = shape
    generator = torch.Generator().manual_seed(seed)

    def embeddings(n: int, dtype: torch.dtype) -> Tensor:
        if exact:
            return torch.randint(-2, 3, (n, dim), generator=generator).to(dtype)
        return torch.randn(n, dim, generator=generator).to(dtype)

    query, table = embeddings(rows, dtypes[0]), embeddings(num_items, dtypes[1])
    ids = torch.randint(0, num_items, (rows, columns), generator=generator)
    padded = torch.rand(rows, columns, generator=generator) < padding
    padded[:, 0] = False
    ids = ids.masked_fill(padded, -1).to(ids_dtype)
    if not ragged:
        return Case(query, table, ids, None)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    values = torch.cat([row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)])
    return Case(query, table, values, offsets)


def strided(tensor: torch.Tensor, how: str) -> torch.Tensor:
    """The same values in another memory layout."""
    if how == "transposed":
        return tensor.t().contiguous().t()
    if how == "sliced":
        wide = torch.cat([tensor, tensor, tensor], dim=1)
        return wide[:, tensor.shape[1] : 2 * tensor.shape[1]]
    return torch.stack([tensor, tensor], dim=2).reshape(tensor.shape[0], -1)[:, ::2]


def huge_table(folder: Path) -> tuple[Tensor, Tensor]:
    """A table of more than 2^31 values, float16, and the five of its rows that are not 0.

    It is a sparse file of 4.4e9 values of which only some pages are ever written.
    """
    num_items, dim = (1 << 22) + 3, 1031
    path = folder / "table.bin"
    with path.open("wb") as file:
        file.truncate(num_items * dim * 2)
    table = torch.from_file(str(path), shared=True, size=num_items * dim, dtype=F16)
    table = table.view(num_items, dim)
    used = torch.tensor([0, 1, (1 << 21) + 7, num_items - 2, num_items - 1])
    table[used] = torch.randint(-2, 3, (5, dim)).to(F16)
    return table, used


ALL = [
    {"shape": shape, "dtypes": dtypes, "ids_dtype": ids_dtype, "ragged": ragged}
    for (shape, dtypes), (ids_dtype, ragged) in zip(
        itertools.product(SHAPES, DTYPES),
        itertools.cycle(itertools.product((torch.int64, torch.int32), (False, True))),
        strict=False,
    )
]


def label(case: dict) -> str:
    names = {F32: "f32", F16: "f16", BF16: "bf16", torch.int64: "i64", torch.int32: "i32"}
    dtypes = "-".join(names[dtype] for dtype in (*case["dtypes"], case["ids_dtype"]))
    layout = "ragged" if case["ragged"] else "dense"
    return f"{'x'.join(map(str, case['shape']))}-{dtypes}-{layout}"
