"""What can be read from the compiled CUDA library without a GPU."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl4rec_kernels._utils.imports import is_installed
from tests.cuda.emulated import ROOT, built_library, run

KERNELS = ("score_kernel", "rank_kernel", "reward_kernel", "segment_sum_kernel")
ARCHITECTURES = ("sm_80", "sm_90")
# Of a thread: a block of three warpgroups is alone on a multiprocessor, and moves registers from
# one of them to the others; of the kernel for pairs there is room for two blocks.
HOPPER = {"tile_kernel": 65536 // 384 // 8 * 8, "pair_kernel": 255}


@pytest.fixture(scope="module")
def library() -> Path:
    path = built_library()
    if path is None:
        pytest.skip("the package was built without nvcc")
    return path


@pytest.fixture(scope="module")
def cuobjdump() -> str:
    """NVIDIA's program that reads compiled kernels, from the toolkit or from Triton."""
    triton = importlib.util.find_spec("triton") if is_installed("triton") else None
    folders = [Path(nvcc).resolve().parent for nvcc in (shutil.which("nvcc"),) if nvcc]
    folders += [Path("/usr/local/cuda/bin")]
    folders += [Path(triton.origin).parent / "backends/nvidia/bin"] if triton else []
    found = shutil.which("cuobjdump") or shutil.which(
        "cuobjdump", path=":".join(str(folder) for folder in folders)
    )
    if found is None:
        pytest.skip("needs cuobjdump, from the CUDA toolkit or from Triton")
    return found


def by_kernel(listing: str, start: str) -> dict[tuple[str, str], str]:
    """Split a listing into functions: their text by (architecture, function)."""
    result, architecture = {}, ""
    for part in re.split(r"(arch = sm_\d+)", listing):
        if part.startswith("arch = "):
            architecture = part.removeprefix("arch = ")
            continue
        for function in re.split(start, part)[1:]:
            name, _, text = function.partition("\n")
            result[architecture, name.strip(" :")] = text
    return result


@pytest.fixture(scope="module")
def code(library, cuobjdump) -> dict[tuple[str, str], str]:
    """The instructions of each kernel; they take seconds to read."""
    return by_kernel(run(cuobjdump, "--dump-sass", str(library)), "Function : ")


def test_no_kernel_spills_registers(library, cuobjdump):
    usage = by_kernel(run(cuobjdump, "--dump-resource-usage", str(library)), " Function ")
    for (architecture, name), text in sorted(usage.items()):
        used = {
            key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)
        }
        print(architecture, name, used)  # shown by pytest -s
        assert used["STACK"] == used["LOCAL"] == 0, f"{name} on {architecture} uses local memory"
        most = next((most for kernel, most in HOPPER.items() if kernel in name), 64)
        assert used["REG"] <= most, (
            f"{name} on {architecture}: too few blocks fit on a multiprocessor"
        )
    for kernel in KERNELS:
        for architecture in ARCHITECTURES:
            assert sum(kernel in name for arch, name in usage if arch == architecture) == 3, kernel


def test_rows_are_read_in_words_of_128_bits(code):
    for kernel in KERNELS:
        for architecture in ARCHITECTURES:
            texts = [
                text
                for (arch, name), text in code.items()
                if arch == architecture and kernel in name
            ]
            assert len(texts) == 3, kernel
            for text in texts:  # four rows at a time
                assert text.count("LDG.E.128") >= 4, f"{kernel} on {architecture}"


def test_the_kernels_for_hopper_multiply_from_shared_memory(code):
    kernels = {name: text for (_, name), text in code.items() if "tile_kernel" in name}
    # That count one or several targets and collect, for two dtypes, float32 and two tables, and two
    # quantized tables, and that sum, for all but the last two.
    assert len(kernels) == 22
    for name, text in kernels.items():
        products = [
            found.start()
            for found in re.finditer(r"HGMMA\.64x256x16\.F32|IGMMA\.64x256x32\.S8", text)
        ]
        parts = 6 if "Float32ES" in name else 3 if "Float32" in name else 1
        assert len(products) == 4 * parts, name  # slices of 64 dimensions
        assert "UTMALDG.2D" in text, name
        # Between the products of a slice no sums are moved from register to register.
        for first, last in zip(products[::4], products[3::4], strict=True):
            assert not re.search(r"WARPGROUP\.DEPBAR|FADD", text[first:last]), name


def test_later_architectures_get_ptx(library, cuobjdump):
    assert "sm_90.ptx" in run(cuobjdump, "--list-ptx", str(library))


def test_it_uses_only_the_stable_interface_of_torch(library):
    """Besides C and C++ only torch's C interface, of which torch for the CPU lacks the stream."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm, from binutils")
    symbols = [line.split()[-1] for line in run("nm", "-D", "-u", str(library)).splitlines()]
    ours = {symbol for symbol in symbols if "@" not in symbol and not symbol.startswith("_")}
    torch_cpu = Path(torch.__file__).parent / "lib/libtorch_cpu.so"
    known = {
        line.split()[-1] for line in run("nm", "-D", "--defined-only", str(torch_cpu)).splitlines()
    }
    assert "aoti_torch_get_current_cuda_stream" in ours
    assert ours - known - {"aoti_torch_get_current_cuda_stream"} == set()


@pytest.mark.parametrize(
    ("value", "named"),
    [("1", ("RL4REC_CUDA=1", "nvcc")), ("yes", ("RL4REC_CUDA='yes'",))],
)
def test_the_build_says_what_is_wrong(tmp_path, value, named):
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "RL4REC_CUDA": value, "CUDACXX": "no-such-nvcc"},
    )
    assert done.returncode == 1
    assert all(part in done.stderr for part in named)
