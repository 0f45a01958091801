"""What the launches of all kernels share: devices and the layout of arguments."""

import torch
import triton
from torch import Tensor


def processors(device: torch.device) -> int:
    """How many multiprocessors share the work; a few where the kernels are interpreted."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def is_hopper() -> bool:
    """Whether kernels run on compute capability 9.0, whose tensor cores read shared memory."""
    if triton.knobs.runtime.interpret:
        return False
    return triton.runtime.driver.active.get_current_target().arch == 90


def on_device(tensor: Tensor) -> torch.cuda.device_of:
    """A context in which kernels start on the device of `tensor`."""
    return torch.cuda.device_of(tensor)


def rows_of(matrix: Tensor) -> Tensor:
    """The matrix with the values of each row side by side; a copy only where they are not."""
    return matrix if matrix.stride(-1) == 1 or matrix.shape[-1] <= 1 else matrix.contiguous()
