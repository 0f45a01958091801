"""The raw CUDA operators: emulated on the CPU, and on the GPU if there is one."""

from typing import Any, NamedTuple

import pytest
import torch

from rl4rec_kernels import RankCounts
from tests.cuda.emulated import built_library
from tests.ops.cases import Case


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
