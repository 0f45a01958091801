"""Which cases of the emulated kernels run."""

import os
from collections.abc import Sequence
from typing import Any

import torch

EVERY = os.environ.get("RL4REC_EMULATED") == "all" or torch.cuda.is_available()


def some(cases: Sequence[Any], step: int, stop: int | None = None) -> list[Any]:
    """All cases in `make test-gpu-emulated` and on a GPU, elsewhere each `step`-th up to `stop`."""
    return list(cases if EVERY else cases[:stop:step])
