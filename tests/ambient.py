"""States of torch that a caller may have set, and that no result may depend on."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def products(setting: str) -> Iterator[None]:
    """Set torch's precision of float32 products, by one of its interfaces; put it back."""
    backends = torch.backends
    try:
        if "=" in setting:
            name, value = setting.split("=")
            *path, last = name.split(".")
            module = backends
            for part in path:
                module = getattr(module, part)
            setattr(module, last, {"True": True, "False": False}.get(value, value))
        else:
            torch.set_float32_matmul_precision(setting)
        yield
    finally:
        for module in (backends, backends.cuda.matmul, backends.mkldnn.matmul):
            module.fp32_precision = "none"


@contextmanager
def restored(
    get: Callable[[], object], put: Callable[..., object], value: object
) -> Iterator[None]:
    """Set a state by its setter; put the old one back."""
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def default_dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    """As `torch.set_default_dtype`."""
    return restored(torch.get_default_dtype, torch.set_default_dtype, dtype)


def default_device(device: str) -> AbstractContextManager[None]:
    """As `torch.set_default_device`."""
    return restored(lambda: None, torch.set_default_device, device)
