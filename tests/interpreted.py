"""Makes Triton's interpreter faster, for the tests."""

from types import SimpleNamespace
from typing import Any


def patch_once() -> None:
    """Let Triton's interpreter replace the functions of triton.language once in a process.

    It replaces them in each call of a kernel, and again in each call of a function by a kernel,
    which takes a third of the time. Only interpreted kernels use what it replaces.
    """
    from triton.runtime import interpreter

    replace, seen = interpreter._patch_lang, set()

    def replace_once(function: Any) -> Any:
        names = id(function.__globals__)  # where it looks for the modules that it changes
        if names not in seen:
            seen.add(names)
            replace(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = replace_once
