"""What is built, what can run, and whether it computes correct results: ``rl4rec doctor``.

It needs no extra. Versions are read without importing the packages, so that a broken package does
not break the doctor.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels import ops
from rl4rec_kernels.negatives.sampling import sample_negatives
from rl4rec_kernels.ops import _backends, reference, use_cpu_level
from rl4rec_kernels.ops._backends import BACKENDS, Backend
from rl4rec_kernels.ops.quantize import quantize_table

DISTRIBUTION = "rl4rec-kernels"
PACKAGE = Path(__file__).parents[1]
INTERPRETER = "TRITON_INTERPRET"

_METRICS = ("ndcg@3", "hit@1", "mrr@5", "mrr", "auc", "logrank", "rank")


class State(Enum):
    """The state of a part; `FAILED` means that it should work but does not."""

    OK = "ok"
    ABSENT = "-"
    FAILED = "FAILED"


class Finding(NamedTuple):
    """One line of the report."""

    section: str
    name: str
    state: State
    detail: str


def examine() -> Iterator[Finding]:
    """Examine the installation, part by part, and check each backend that can run."""
    yield from _versions()
    yield from _built()
    backends = list(_runnable())
    yield from backends
    yield from _extras()
    able = {found.name for found in backends if found.state is State.OK}
    yield from _self_check([backend for backend in BACKENDS if backend in able])


def main() -> int:
    """Print the report line by line; return 1 if something that should work does not, else 0."""
    section, failed = "", []
    for found in examine():
        if found.section != section:
            print("\n" * bool(section) + found.section)
            section = found.section
        if found.state is State.FAILED:
            failed.append(found.name)
        print(f"  {found.state.value:<7} {found.name:<19} {found.detail}".rstrip(), flush=True)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall checks passed")
    return 1 if failed else 0


def _versions() -> Iterator[Finding]:
    system = f"{platform.system()} {platform.machine()}"
    cores = f"{len(os.sched_getaffinity(0))} processors"
    found = {
        DISTRIBUTION: f"{_version(DISTRIBUTION) or 'not installed'}, {PACKAGE}",
        "python": f"{platform.python_version()}, {system}, {cores}",
        "torch": f"{torch.__version__}, {_cuda_of_torch()}",
        "numpy": np.__version__,
    }
    for name, detail in found.items():
        yield Finding("Versions", name, State.OK, detail)


def _cuda_of_torch() -> str:
    if torch.version.cuda is None:
        return "built without CUDA"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, but no GPU was found"
    return f"built for CUDA {torch.version.cuda}, with {torch.cuda.get_device_name()}"


def _library(stem: str) -> str | None:
    """The file name of a native library, if it was built."""
    return next((file.name for file in sorted(PACKAGE.glob(f"{stem}.*so"))), None)


def _built() -> Iterator[Finding]:
    """The native libraries; only without the last the package could have been imported."""
    stems = {"operators": "_C", "sampler": "_sampler", "ids": "_ids", "CUDA operators": "_C_cuda"}
    for name, stem in stems.items():
        file = _library(stem)
        detail = file or "not built; install again with nvcc present and RL4REC_CUDA=1"
        yield Finding("Built", name, State.OK if file else State.ABSENT, detail)


def _runnable() -> Iterator[Finding]:
    """The backends that can run here; one that lacks a GPU has not failed."""
    levels, threads = ", ".join(_backends.cpu_levels()), torch.get_num_threads()
    detail = f"level {_backends.cpu_level()} in use (of {levels}), {threads} threads"
    yield Finding("Backends", "cpu", State.OK, detail)
    yield Finding("Backends", "triton", *_triton())
    yield Finding("Backends", "cuda", *_cuda())


def _triton() -> tuple[State, str]:
    version = _version("triton")
    if version is None:
        if torch.cuda.is_available():
            return State.FAILED, f"not installed, but the GPU needs it; run: {_install('triton')}"
        return State.ABSENT, f"not installed; run: {_install('triton')}"
    try:
        importlib.import_module("triton")
    except Exception as error:  # a broken package may raise anything
        return State.FAILED, f"triton {version} cannot be imported: {_first_line(error)}"
    if os.environ.get(INTERPRETER) == "1":
        return State.OK, f"triton {version}, interpreted ({INTERPRETER}=1)"
    if torch.cuda.is_available():
        return State.OK, f"triton {version}, on the GPU"
    return State.ABSENT, f"triton {version}, needs a GPU; {INTERPRETER}=1 interprets its kernels"


def _cuda() -> tuple[State, str]:
    if _library("_C_cuda") is None:
        return State.ABSENT, "not built, see above"
    if not torch.cuda.is_available():
        return State.ABSENT, "built, but needs a GPU and a torch with CUDA"
    try:
        _backends.has_cuda_library()
    except Exception as error:  # a library that is incompatible with this torch
        return State.FAILED, f"built, but cannot be loaded: {_first_line(error)}"
    return State.OK, torch.cuda.get_device_name()


def _extras() -> Iterator[Finding]:
    """The packages of each extra: their versions, or how to install those that are missing."""
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        detail = (
            f"unknown: {DISTRIBUTION} is not installed; run: pip install --no-build-isolation -e ."
        )
        yield Finding("Extras", "all", State.ABSENT, detail)
        return
    requirements = distribution.requires or []
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        packages, others = _contents(extra, requirements)
        wanted = {*packages}.union(*(_contents(other, requirements)[0] for other in others))
        missing = sorted(package for package in wanted if _version(package) is None)
        if missing:
            detail = f"missing {', '.join(missing)}; run: {_install(extra)}"
            yield Finding("Extras", extra, State.ABSENT, detail)
        else:
            versions = [f"{package} {_version(package)}" for package in packages]
            yield Finding("Extras", extra, State.OK, ", ".join([*versions, *others]))


def _contents(extra: str, requirements: list[str]) -> tuple[list[str], list[str]]:
    """The packages of an extra, and the other extras that it includes, directly or not."""
    packages, others = [], []
    for requirement in requirements:
        named = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", requirement)
        if named is None or not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", requirement):
            continue
        if named[1] != DISTRIBUTION:
            packages.append(named[1])
            continue
        for other in (part.strip() for part in (named[2] or "").split(",")):
            others += [other, *_contents(other, requirements)[1]]
    return packages, list(dict.fromkeys(others))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _make_case(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, ...]:
    """A query, a table, candidates, targets and excluded items.

    They have many ties, padding, repeats, and the target among the others. Embeddings are small
    whole numbers: sums are exact in any order, so that all backends must agree.
    """
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int64, device="cpu")

    rows, dim, num_items = 5, 40, 70
    targets, candidates = draw(0, num_items, rows), draw(-1, num_items, rows, 12)
    candidates[:, 0] = candidates[:, 5] = targets
    query, table = draw(-2, 3, rows, dim).to(dtype), draw(-2, 3, num_items, dim).to(dtype)
    case = (query, table, candidates, targets, draw(-1, num_items, rows, 6))
    return tuple(tensor.to(device) for tensor in case)


def _results(case: tuple[Tensor, ...], backend: Backend) -> dict[str, Any]:
    """The results of a backend for a case, by operator."""
    query, table, candidates, targets, exclude = case
    sampled, catalog = (query, table, candidates), (query, table, targets, exclude)
    results: dict[str, Any] = {
        "score_candidates": ops.score_candidates(*sampled, backend=backend),
        "rank_candidates": ops.rank_candidates(*sampled, backend=backend),
        "reward_candidates": ops.reward_candidates(*sampled, _METRICS, backend=backend),
    }
    if backend != "cuda":  # which has only the operators on candidates
        counts = ops.rank_catalog(*catalog, backend=backend)
        results |= {
            "rank_catalog": counts,
            "metrics_from_counts": ops.metrics_from_counts(counts, _METRICS, backend=backend),
            "reward_catalog": ops.reward_catalog(*catalog, _METRICS, backend=backend),
            "topk_catalog": ops.topk_catalog(query, table, 9, exclude, backend=backend),
        }
    return results


def _self_check(backends: list[Backend]) -> Iterator[Finding]:
    for backend in backends:
        if backend == "cpu":
            for level in _backends.cpu_levels():
                with use_cpu_level(level):
                    yield _checked(f"cpu {level}", partial(_check_backend, "cpu", "cpu"))
        else:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            yield _checked(backend, partial(_check_backend, backend, device))
    yield _checked("refine", _check_refine)
    yield _checked("sampler", _check_sampler)


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        state, detail = State.OK, check()
    except Exception as error:  # a broken backend may raise anything
        state, detail = State.FAILED, _first_line(error)
    return Finding("Self-check against the reference", name, state, detail)


def _check_backend(backend: Backend, device: str) -> str:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for dtype in dtypes:
        got = _results(_make_case(dtype, device), backend)
        want = _results(_make_case(dtype), "reference")
        for operator, result in got.items():
            _compare(f"{operator} in {dtype}", result, want[operator])
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{len(got)} operators in {names}"


def _check_refine() -> str:
    """Counts from an int8 table must equal those of the float32 table."""
    query, table, _, targets, exclude = _make_case(torch.float32)
    got = ops.rank_catalog(query, quantize_table(table), targets, exclude, refine=True)
    _compare("rank_catalog from int8", got, reference.rank_catalog(query, table, targets, exclude))
    return "counts from int8 equal those from float32"


def _check_sampler() -> str:
    """Negatives must be unseen and distinct, and not depend on the order of the users."""
    seen, users = [[1, 2, 3], [4], []], [7, 8, 9]
    drawn = sample_negatives(12, seen, 8, user_ids=users)
    reverse = sample_negatives(12, seen[::-1], 8, user_ids=users[::-1])
    if not np.array_equal(drawn, reverse[::-1]):
        raise AssertionError("a user's negatives depend on the order of users")
    for user, row in zip(seen, drawn.tolist(), strict=True):
        if len({*row, *user}) != 8 + len(user) or not all(1 <= item < 12 for item in row):
            raise AssertionError(f"{row} are not 8 distinct items outside of {user}")
    return "distinct, unseen, and the same in any order"


def _compare(what: str, got: Any, want: Any) -> None:
    """Raise an AssertionError if results differ; only metrics may, by 1e-5."""
    if isinstance(got, tuple):
        for one, other in zip(got, want, strict=True):
            _compare(what, one, other)
        return
    got, want = got.cpu().double(), want.cpu().double()
    tolerance = 1e-5 if what.startswith(("reward", "metrics")) else 0.0
    if got.shape != want.shape or not torch.allclose(got, want, rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{what} differs from the reference")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader, for example head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
