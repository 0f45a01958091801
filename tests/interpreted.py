"""Makes Triton's interpreter faster, for the tests."""

from types import SimpleNamespace
from typing import Any


def make_fast() -> None:
    """Do once what Triton's interpreter does for each call and for each operation."""
    from triton.runtime import interpreter

    _patch_once()
    _keep_types()
    # It would compute whether sums of int32 overflow, but says so only where `debug` is set.
    options = interpreter.interpreter_builder.options
    object.__setattr__(options, "sanitize_overflow", options.debug)


def _patch_once() -> None:
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


def _keep_types() -> None:
    """Let values share what depends on their type only, which takes almost half of the time left.

    Types never change; what was made of one is kept with it.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    first_init, with_element = tl.tensor.__init__, tl.block_type.with_element_ty
    block_of, numpy_of = interpreter.InterpreterBuilder.get_block_ty, interpreter._get_np_dtype

    def init(self: Any, handle: Any, type: Any) -> None:
        if "_of_values" not in type.__dict__:
            first_init(self, handle, type)
            type._of_values = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = type._of_values

    def kept(type: Any, name: str, make: Any, argument: Any) -> Any:
        found = type.__dict__.setdefault(name, {})
        key = id(argument) if isinstance(argument, tl.dtype) else tuple(argument)
        if key not in found:
            found[key] = argument, make()  # with the argument, whose id then stays its own
        return found[key][1]

    tl.tensor.__init__ = init
    tl.block_type.with_element_ty = lambda self, scalar: kept(
        self, "_with_element", lambda: with_element(self, scalar), scalar
    )
    interpreter.InterpreterBuilder.get_block_ty = lambda self, dtype, shape: kept(
        dtype, "_block", lambda: block_of(self, dtype, shape), shape
    )
    interpreter._get_np_dtype = lambda type: kept(type, "_numpy", lambda: numpy_of(type), ())
