"""Lazy imports of optional dependencies."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Parameters
    ----------
    module : str
        Dotted name of the module, for example ``"sentence_transformers"``.
    extra : str
        The extra of this package that installs it.

    Raises
    ------
    ImportError
        If the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the module is there but misses a dependency of its own: do not hide that
        raise ImportError(
            f"{module} is not installed; run: pip install 'rl4rec-kernels[{extra}]'"
        ) from error
