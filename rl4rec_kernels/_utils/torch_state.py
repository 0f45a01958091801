"""Runs models of other libraries as if the caller had set nothing in torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from rl4rec_kernels._utils.forking import fork_safe_lock

_PRODUCTS: tuple[Any, ...] = (
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.cuda.matmul,
)

_lock = fork_safe_lock()
_users = 0
_undo: list[Callable[[], object]] = []


@contextmanager
def plain_torch(device: torch.device) -> Iterator[None]:
    """Turn off the caller's autocast on a device, its default dtype and its default device.

    Products of float32 are made in float32, without TF32 or bfloat16. This and the default dtype
    belong to the whole process: they are changed only if they have been set, and put back when the
    last thread is done.
    """
    global _users
    is_cpu = torch.get_default_device().type == "cpu"
    place = nullcontext() if is_cpu else torch.device("cpu")  # which slows each call down a little
    with place, torch.autocast(device.type, enabled=False):
        with _lock:
            _users += 1
            if _users == 1:
                _undo.extend(_set_exact())
        try:
            yield
        finally:
            with _lock:
                _users -= 1
                while not _users and _undo:
                    _undo.pop()()


def _set_exact() -> Iterator[Callable[[], object]]:
    """Change the settings of the process; yield what puts each one back."""
    dtype = torch.get_default_dtype()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
        yield partial(torch.set_default_dtype, dtype)
    for product in _PRODUCTS:
        precision = product.fp32_precision
        if precision not in ("none", "ieee"):
            product.fp32_precision = "ieee"
            yield partial(_set_precision, product, precision)


def _set_precision(product: Any, precision: str) -> None:
    product.fp32_precision = "none"
    if product.fp32_precision != precision:
        product.fp32_precision = precision
