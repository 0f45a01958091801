"""Builds the native libraries with CMake and Ninja.

``rl4rec_kernels._C`` has the torch operators (LibTorch Stable ABI, one build for torch >= 2.10);
``rl4rec_kernels._sampler`` is the negative sampler, a pybind11 module that does not use torch;
``rl4rec_kernels._ids``, another one, reads and checks lists of ids;
``rl4rec_kernels._C_cuda`` has the operators for NVIDIA GPUs and is built if nvcc is found and torch
was built with CUDA: RL4REC_CUDA=0 leaves it out, RL4REC_CUDA=1 requires it. RL4REC_BUILD_TYPE is
CMake's build type (default: Release). RL4REC_SANITIZE=address or thread builds for a sanitizer (see
`make sanitize`).
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_has_cuda() -> bool:
    """Whether the torch that is installed was built with CUDA."""
    try:
        import torch
    except ModuleNotFoundError:  # the build says so, see below
        return False
    return torch.version.cuda is not None


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None if the GPU operators are not built."""
    wanted = os.environ.get("RL4REC_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(
            f"RL4REC_CUDA={wanted!r} must be 0 (no GPU operators), 1 (require them) or unset"
        )
    if wanted == "0" or (wanted == "" and not torch_has_cuda()):
        return None
    toolkits = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    folders = [os.environ.get("PATH", ""), *(f"{toolkit}/bin" for toolkit in toolkits if toolkit)]
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=os.pathsep.join(folders))
    if nvcc is None and wanted == "1":
        raise SystemExit(
            "RL4REC_CUDA=1 needs nvcc, which is not on PATH, in $CUDA_HOME/bin or in "
            "/usr/local/cuda/bin: install the CUDA toolkit, or set CUDACXX to nvcc"
        )
    return nvcc


NVCC = find_nvcc()


def check_compiler() -> None:
    """Exit with a remedy if CMake will not find a C++ compiler."""
    named = os.environ.get("CXX")
    programs = [shlex.split(named)[0]] if named else ["c++", "g++", "clang++"]
    if not any(shutil.which(program) for program in programs):
        missing = f"CXX={named} does not exist" if named else "none is on PATH"
        raise SystemExit(
            f"building rl4rec-kernels needs a C++17 compiler, but {missing}: install g++ or clang "
            "(on Debian: apt-get install g++), or set CXX to one"
        )


class CMakeBuild(build_ext):
    """Runs CMake once and copies each target to where setuptools expects its extension."""

    def run(self) -> None:
        check_compiler()
        try:
            import pybind11
            import torch
            from torch.utils.cpp_extension import include_paths, library_paths
        except ModuleNotFoundError as error:
            raise SystemExit(
                f"building rl4rec-kernels needs {error.name}: install the build requirements "
                "first (pip install torch pybind11 cmake ninja setuptools), then "
                "pip install --no-build-isolation ."
            ) from error
        build = Path(self.build_temp).resolve()
        self._cmake(
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('RL4REC_BUILD_TYPE', 'Release')}",
            f"-DRL4REC_SANITIZE={os.environ.get('RL4REC_SANITIZE', '')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_INCLUDE_DIRS={';'.join(include_paths())}",
            f"-DTORCH_LIBRARY_DIR={library_paths()[0]}",
            f"-DTORCH_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            *([f"-DCMAKE_CUDA_COMPILER={NVCC}"] if NVCC else ["-UCMAKE_CUDA_COMPILER"]),
        )
        self._cmake("--build", str(build))
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(build / f"{extension.name.rpartition('.')[2]}.so", target)
        if self.inplace and not NVCC:
            for old in (ROOT / "rl4rec_kernels").glob("_C_cuda.*"):  # from an earlier build
                old.unlink()

    @staticmethod
    def _cmake(*arguments: str) -> None:
        # Without activation, the virtual environment's programs are not on pip's PATH.
        programs = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
        for program in ("cmake", "ninja"):
            if shutil.which(program, path=programs) is None:
                raise SystemExit(f"building rl4rec-kernels needs {program}: pip install {program}")
        environment = {**os.environ, "PATH": programs}
        cmake = shutil.which("cmake", path=programs)
        if subprocess.run([cmake, *arguments], env=environment, check=False).returncode != 0:
            hint = "; RL4REC_CUDA=0 leaves the GPU operators out" if NVCC else ""
            raise SystemExit(f"building rl4rec-kernels failed, see the errors above{hint}")


setup(
    ext_modules=[
        Extension("rl4rec_kernels._C", sources=[]),
        Extension("rl4rec_kernels._sampler", sources=[]),
        Extension("rl4rec_kernels._ids", sources=[]),
        *([Extension("rl4rec_kernels._C_cuda", sources=[])] if NVCC else []),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
