"""Triton kernels compile, without a GPU, and use its resources well.

`make test` compiles those in which most time is spent, `make test-gpu-emulated` all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.cases import EVERY

pytest.importorskip("triton")

KERNELS = {
    "_add_ranges",
    "_collect",
    "_count_candidates",
    "_count_catalog",
    "_count_excluded",
    "_count_targets",
    "_finish",
    "_log_prob_candidates",
    "_metrics_from_counts",
    "_metrics_of_targets",
    "_recount_catalog",
    "_remove_excluded",
    "_sample_groups",
    "_score_all",
    "_score_candidates",
    "_score_targets",
    "_score_targets_of",
    "_search_again",
    "_sum_exponentials",
    "_weigh",
    "_weighted_segment_sum",
}
# The others are compiled to PTX for tests/gpu/test_triton.py.
FEW = {
    "_add_ranges",
    "_collect",
    "_count_candidates",
    "_count_catalog",
    "_count_excluded",
    "_finish",
    "_recount_catalog",
    "_sample_groups",
    "_score_targets",
    "_search_again",
    "_sum_exponentials",
}
WITHOUT_EMBEDDINGS = ("_add_ranges", "_finish", "_metrics_from_counts", "_metrics_of_targets")
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that a block may have
# Bytes, of a case or a kernel: where excluded pairs are looked up, where few dimensions are
# multiplied without tensor cores, and on the older card.
MAY_SPILL = {
    80: {"float32": 128, "quantized int8": 288, "_sum_exponentials": 64},
    90: {"ones": 8, "_sum_exponentials": 24},
}


@pytest.fixture(scope="module", params=[80, 90] if EVERY else [90], ids="sm_{}".format)
def compiled(request) -> tuple[int, list[dict]]:
    """The compute capability and the kernels, compiled in a process that does not interpret."""
    script = Path(__file__).with_name("triton_resources.py")
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(script.parents[2])
    run = subprocess.run(
        [sys.executable, str(script), str(request.param), *["few"] * (not EVERY)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    for kernel in kernels:
        print(f"sm_{request.param} {kernel}")  # shown by pytest -rP
    return request.param, kernels


def test_every_kernel_compiles(compiled):
    _, kernels = compiled
    assert {kernel["kernel"] for kernel in kernels} == (KERNELS if EVERY else FEW)


def test_registers_are_not_spilled(compiled):
    capability, kernels = compiled
    for kernel in kernels:
        by_case = MAY_SPILL[capability]
        allowed = max(by_case.get(kernel["case"], 0), by_case.get(kernel["kernel"], 0))
        assert kernel["spilled"] <= allowed, kernel
        assert kernel["shared"] <= SHARED[capability], kernel


def test_embeddings_are_read_128_bits_at_a_time(compiled):
    for kernel in compiled[1]:
        if kernel["case"] != "ones" and kernel["kernel"] not in WITHOUT_EMBEDDINGS:
            assert kernel["wide_loads"] > 0, kernel


def test_catalogs_use_the_tensor_cores(compiled):
    capability, kernels = compiled
    names = {
        "_collect",
        "_count_catalog",
        "_count_targets",
        "_sample_groups",
        "_score_all",
        "_score_targets",
        "_sum_exponentials",
        "_weigh",
    }
    for kernel in kernels:
        if kernel["case"] != "ones" and kernel["kernel"] in names:
            whole = kernel["case"] == "quantized int8"
            wanted = {80: "IMMA", 90: "IGMMA"} if whole else {80: "HMMA", 90: "HGMMA"}
            assert kernel["tensor_cores"] == [wanted[capability]], kernel


def test_two_programs_of_half_precision_fit_on_a_multiprocessor(compiled):
    """So that one compares scores while the other multiplies."""
    capability, kernels = compiled
    for kernel in kernels:
        if (kernel["kernel"], kernel["case"], capability) == ("_count_catalog", "bfloat16", 90):
            assert kernel["registers"] <= 128, kernel
            assert 2 * kernel["shared"] <= SHARED[capability], kernel
