"""The GPU backends: on a GPU if there is one, else interpreted or emulated on the CPU."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _backends

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def moved(value: Any, device: str) -> Any:
    """Tensors, and named tuples of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class Backend(NamedTuple):
    """Calls the package's operators with one backend; arguments and results are on the CPU."""

    name: str
    device: str = DEVICE

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        function = getattr(rk, operator)

        def call(*args: Any, **options: Any) -> Any:
            args = [moved(argument, self.device) for argument in args]
            options = {name: moved(value, self.device) for name, value in options.items()}
            return moved(function(*args, **options, backend=self.name), "cpu")

        return call

    @property
    def ops(self) -> Any:
        """The registered operators."""
        return _backends.operators(self.name)

    def every_score(self, query: Tensor, table: Tensor, row_stats: Tensor | None = None) -> Tensor:
        """The score of every pair, as the one of a target: float32 [B, N]."""
        query, table, row_stats = (moved(t, self.device) for t in (query, table, row_stats))
        rows, items = len(query), len(table)
        pairs = torch.arange(rows * items, device=self.device)
        scores = self.ops.score_catalog_targets(
            query.repeat_interleave(items, 0), table, pairs % items, row_stats
        )
        return scores.view(rows, items).cpu()
