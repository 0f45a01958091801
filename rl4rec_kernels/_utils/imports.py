"""Lazy imports of optional dependencies."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise ImportError naming the `extra` that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the module is installed, but one of its own dependencies is missing
        raise ImportError(
            f"{module} is not installed; run: pip install 'rl4rec-kernels[{extra}]'"
        ) from error
