"""What the slices of a sharded table have in common, without which their scores do not compare."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import Catalog, check_catalog
from rl4rec_kernels.ops.quantize import QuantizedTable, quantize_table


def check_slice(table: Any, valid: Any) -> Catalog:
    """Check a process's rows and return them, see `ShardedTable.from_slice`."""
    values = table.values if isinstance(table, QuantizedTable) else table
    dim = values.shape[-1] if isinstance(values, Tensor) and values.dim() else 0
    device = values.device if isinstance(values, Tensor) else None
    refine = isinstance(table, QuantizedTable) and table.source is not None
    return check_catalog(
        torch.empty(0, dim, dtype=torch.float32, device=device), table, valid, refine
    )


def slice_facts(catalog: Catalog) -> dict[str, Any]:
    """Describe a slice: what `check_slices` compares, its rows and the level of CPU features."""
    values, _, row_stats, source = catalog
    return {
        "rows": values.shape[0],
        "CPU level": _backends.cpu_level(),
        "dim": values.shape[1],
        "dtype": str(values.dtype),
        "quantized": row_stats is not None,
        "source": None if source is None else str(source.dtype),
        "scores": _probe(catalog),
    }


def check_slices(facts: Sequence[dict[str, Any]]) -> None:
    """Check by the `slice_facts` of all slices that they make up one table.

    Raises
    ------
    ValueError
        If dimensions or dtypes differ, or scores, because the CPUs do.
    """
    first = facts[0]
    for rank, other in enumerate(facts):
        for name, value in other.items():
            if name in ("rows", "CPU level") or value == first[name]:
                continue
            if name == "scores":
                raise ValueError(
                    f"the CPUs of process 0 (level {first['CPU level']}) and process {rank} (level "
                    f"{other['CPU level']}) round scores differently, so they cannot be compared; "
                    f"set {_backends.LEVEL_VARIABLE} to the same level for all, for example avx2"
                )
            raise ValueError(
                f"the slices do not match: {name} is {first[name]} in process 0 but {value} in "
                f"process {rank}; make them in the same way"
            )


def _probe(catalog: Catalog) -> list[list[int]]:
    """The bits of a few scores as this machine computes them for such a table."""
    values, _, row_stats, source = catalog
    generator, device = torch.Generator("cpu").manual_seed(0), values.device
    rows, dim = 37, 67
    options: Any = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    query, table = (
        (torch.randint(-999, 1000, (rows, dim), **options) / 7.0).to(device) for _ in range(2)
    )
    targets = torch.arange(rows, dtype=torch.int64, device=device)
    score = torch.ops.rl4rec.score_catalog_targets
    if row_stats is None:
        plain = table.to(values.dtype)
        found = [score(q, plain, targets, None) for q in (query, query.to(values.dtype))]
    else:
        copy = quantize_table(table, values.dtype)
        found = [score(query, copy.values, targets, copy.row_stats)]
        if source is not None:
            found.append(score(query, table.to(source.dtype), targets, None))
    return [scores.view(torch.int32).tolist() for scores in found]
