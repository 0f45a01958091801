"""The raw CUDA operators: emulated on the CPU, and on the GPU if there is one."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rl4rec_kernels import RankCounts
from rl4rec_kernels.ops import _backends
from tests.cuda.emulated import Emulated, built_library
from tests.ops.cases import Case

HAS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


class Kernels(NamedTuple):
    """The raw operators and the device of their tensors. Results are moved to the CPU."""

    raw: Any
    device: str

    def run(self, name: str, case: Case, *arguments: Any) -> tuple[Any, int]:
        """Call an operator; return its result and the value of `bad`."""
        bad = torch.zeros(1, dtype=torch.int32, device=self.device)
        tensors = [part if part is None else part.to(self.device) for part in case]
        result = getattr(self.raw, name)(*tensors, *arguments, bad)
        if isinstance(result, torch.Tensor):
            return result.cpu(), bad.item()
        return RankCounts(*(column.cpu() for column in result)), bad.item()

    def good(self, name: str, case: Case, *arguments: Any) -> Any:
        """As `run`, for arguments without bad values."""
        result, bad = self.run(name, case, *arguments)
        assert bad == 0
        return result


@pytest.fixture(params=["emulated", "gpu"] if torch.cuda.is_available() else ["emulated"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The kernels, on each device that is available."""
    if request.param == "emulated":
        return Kernels(request.getfixturevalue("emulated").raw, "cpu")
    torch.ops.load_library(str(built_library()))
    return Kernels(torch.ops.rl4rec_cuda_raw, "cuda")


@pytest.fixture(scope="session")
def emulated_hopper() -> Emulated:
    return Emulated(part="cuda/sm90")


@pytest.fixture(params=["emulated", "gpu"] if HAS_HOPPER else ["emulated"])
def raw(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The raw operators, which `backend="cuda"` calls, for tensors of the CPU."""
    if request.param == "gpu":
        torch.ops.load_library(str(built_library()))
        return OnGpu(torch.ops.rl4rec_cuda_raw)
    operators = request.getfixturevalue("emulated_hopper").raw
    monkeypatch.setattr(_backends, "runs_on_cpu", lambda backend: backend == "cuda")
    monkeypatch.setattr(_backends, "has_cuda_library", lambda: True)
    kernels = _backends.kernels
    monkeypatch.setattr(
        _backends, "kernels", lambda backend: operators if backend == "cuda" else kernels(backend)
    )
    return operators


class OnGpu:
    """Operators that move their arguments to the GPU, and back what they change and return."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Tensor | None:
            moved = [part.cuda() if isinstance(part, Tensor) else part for part in arguments]
            operator = getattr(self._raw, name)
            result = operator(*moved)
            schema = operator.default._schema.arguments
            for argument, part, changed in zip(schema, arguments, moved, strict=False):
                if part is not None and argument.alias_info and argument.alias_info.is_write:
                    part.copy_(changed)
            return result if result is None else result.cpu()

        return call
