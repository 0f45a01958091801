"""NumPy arrays as tensors that share their memory."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown


class SupportsArray(Protocol):
    """What NumPy turns into an array, such as a Series of pandas and a tensor."""

    def __array__(self) -> npt.NDArray[Any]: ...


Array = Tensor | npt.NDArray[Any]  # of numbers
Numbers = Array | SupportsArray | Sequence[float]
Labels = Array | SupportsArray | Sequence[float] | Sequence[str]  # numbers or texts


def as_array(name: str, value: object) -> np.ndarray:
    """Return lists, tensors and other things as an array, or raise TypeError.

    Tensors must be dense, without a gradient, and have values on the CPU.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array or a list without lists of different lengths, got "
            f"{shown(value)} ({error})"
        ) from None


class _Writable:
    """Memory of an array that says it may be written, for torch, which has no read-only tensors."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # keeps the memory
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def as_tensor(name: str, value: Any) -> Any:
    """Return a NumPy array as a tensor on the CPU; leave everything else as it is.

    Memory is shared, also that of a read-only array such as a memory map, so the tensor is for
    reading. Arrays with negative strides or another byte order are copied.

    Raises
    ------
    TypeError
        If torch has no such dtype.
    """
    if not isinstance(value, np.ndarray):
        return value
    if not value.dtype.isnative or any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    if not value.flags.writeable:
        value = np.asarray(_Writable(value))
    try:
        return torch.from_numpy(value)
    except TypeError:
        raise TypeError(f"{name} must hold numbers, got an array of {value.dtype}") from None
