"""Which backend and CPU level a call uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels
from tests.errors import raises
from tests.ops.gpu import DEVICE, Backend, moved
from tests.ops.test_arguments import IDS, QUERY, TABLE


@pytest.mark.parametrize("level", [*cpu_levels(), "mmx"])
def test_the_environment_forces_a_level(level):
    run = subprocess.run(
        [sys.executable, "-c", "import rl4rec_kernels as rk; print(rk.cpu_level())"],
        env={**os.environ, "RL4REC_CPU_LEVEL": level},
        capture_output=True,
        text=True,
        check=False,
    )
    if level == "mmx":
        assert "RL4REC_CPU_LEVEL='mmx'" in run.stderr
        assert "ImportError" in run.stderr
    else:
        assert run.stdout.strip() == level


def test_unknown_cpu_level():
    with raises(ValueError, "level", "'mmx'", "portable"), rk.ops.use_cpu_level("mmx"):
        pass


def test_the_level_in_use_is_one_of_the_machine():
    assert rk.cpu_level() in cpu_levels()
    assert f'``"{rk.cpu_level()}"``' in rk.cpu_level.__doc__


def test_a_backend_that_cannot_run_here_is_rejected():
    if DEVICE == "cpu":
        with raises(ValueError, "backend='cuda'", "GPU", "cpu"):
            rk.rank_candidates(QUERY, TABLE, IDS, backend="cuda")
    else:
        with raises(ValueError, "backend='cpu'", "CPU", "cuda"):
            rk.rank_candidates(*(moved(t, DEVICE) for t in (QUERY, TABLE, IDS)), backend="cpu")


def test_there_are_few_catalog_kernels_in_cuda():
    one = torch.ones(1, 1)
    with raises(ValueError, "backend='cuda'", "'triton'"):
        Backend("cuda").rank_catalog(one, one.half(), torch.zeros(1).long())
    with raises(ValueError, "backend='cuda'", "'triton'"):
        Backend("cuda").topk_catalog(one, one.half(), 1)
    if DEVICE == "cpu":
        with raises(ValueError, "backend='cuda'", "GPU", "cpu"):
            rk.rank_catalog(one.half(), one.half(), torch.zeros(1).long(), backend="cuda")


def test_slow_bfloat16_instructions_have_to_be_asked_for():
    levels, cpuinfo = cpu_levels(), Path("/proc/cpuinfo")
    if "avx512_bf16" not in levels or not cpuinfo.exists():
        pytest.skip("needs a CPU with AVX-512 and bfloat16, and Linux")
    is_intel = "GenuineIntel" in cpuinfo.read_text()
    assert (levels.index("avx512_vnni") < levels.index("avx512_bf16")) == is_intel
