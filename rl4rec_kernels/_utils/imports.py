"""Lazy imports of optional dependencies."""

import importlib
import importlib.util
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise ImportError naming the `extra` that installs it."""
    package = module.partition(".")[0]
    if folder := _folder(package):
        raise ImportError(
            f"{package} is not installed, and the folder {folder} only has its name; run: "
            f"pip install 'rl4rec-kernels[{extra}]'"
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name == package:
            raise ImportError(
                f"{module} is not installed; run: pip install 'rl4rec-kernels[{extra}]'"
            ) from error
        if folder := _folder(name):  # the module is installed, but takes a folder for another one
            raise ImportError(
                f"{module} takes the folder {folder} for the package {name} ({error}); rename the "
                f"folder, run in another directory, or install {name}"
            ) from error
        raise


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found; a folder of its name is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # an imported module without a spec
        return True
    return spec is not None and spec.origin is not None


def _folder(package: str) -> str | None:
    """The folder that Python imports under a package's name, though it has no ``__init__.py``."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # for example a module without a spec
        return None
    if spec is None or spec.origin is not None or not spec.submodule_search_locations:
        return None
    return str(next(iter(spec.submodule_search_locations)))
