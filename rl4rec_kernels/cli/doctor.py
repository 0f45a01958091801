"""What is built, what can run, and whether it computes what it should: ``rl4rec doctor``.

It needs no extra. Versions are read without importing anything, so a package that is broken cannot
take the doctor down with it.
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

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _backends, reference, use_cpu_level

DISTRIBUTION = "rl4rec-kernels"
INTERPRETER = "TRITON_INTERPRET"

_METRICS = ("ndcg@3", "hit@1", "mrr@5", "mrr", "auc", "logrank", "rank")


class State(Enum):
    """How something fares; what `FAILED` should work and does not."""

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
    """Look at the installation, part by part, and check each backend that can run."""
    yield from _versions()
    yield from _built()
    backends = list(_runnable())
    yield from backends
    yield from _extras()
    runnable = [finding.name for finding in backends if finding.state is State.OK]
    yield from _self_check(runnable)


def main() -> int:
    """Print the report as it is made; return 1 if something that should work does not, else 0."""
    section, failed = "", []
    for finding in examine():
        if finding.section != section:
            print(f"{chr(10) if section else ''}{finding.section}")
            section = finding.section
        if finding.state is State.FAILED:
            failed.append(finding.name)
        print(
            f"  {finding.state.value:<7} {finding.name:<19} {finding.detail}".rstrip(), flush=True
        )
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall that should run does")
    return 1 if failed else 0


def _versions() -> Iterator[Finding]:
    where = Path(rk.__file__).parent
    system = f"{platform.system()} {platform.machine()}"
    found = [
        (DISTRIBUTION, f"{rk.__version__}, {where}"),
        (
            "python",
            f"{platform.python_version()}, {system}, {len(os.sched_getaffinity(0))} processors",
        ),
        ("torch", f"{torch.__version__}, {_cuda_of_torch()}"),
        ("numpy", np.__version__),
    ]
    for name, detail in found:
        yield Finding("Versions", name, State.OK, detail)


def _cuda_of_torch() -> str:
    if torch.version.cuda is None:
        return "built without CUDA"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, which finds no GPU"
    return f"built for CUDA {torch.version.cuda}, with {torch.cuda.get_device_name()}"


def _built() -> Iterator[Finding]:
    """The native libraries; that the first two are there, importing the package has shown."""
    package = Path(rk.__file__).parent
    for name, stem in (("operators", "_C"), ("sampler", "_sampler"), ("CUDA operators", "_C_cuda")):
        files = sorted(package.glob(f"{stem}.*so"))
        if files:
            yield Finding("Built", name, State.OK, files[0].name)
        else:
            yield Finding(
                "Built",
                name,
                State.ABSENT,
                "not built; install again where nvcc is, with RL4REC_CUDA=1",
            )


def _runnable() -> Iterator[Finding]:
    """Which backends can run here; what lacks a GPU is not at fault."""
    levels = ", ".join(_backends.cpu_levels())
    yield Finding(
        "Backends",
        "cpu",
        State.OK,
        f"level {_backends.cpu_level()} in use (of {levels}), {torch.get_num_threads()} threads",
    )
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
    except Exception as error:  # whatever a broken package does
        return State.FAILED, f"triton {version} cannot be imported: {_first_line(error)}"
    if os.environ.get(INTERPRETER) == "1":
        return State.OK, f"triton {version}, interpreted ({INTERPRETER}=1)"
    if torch.cuda.is_available():
        return State.OK, f"triton {version}, on the GPU"
    return State.ABSENT, f"triton {version}, needs a GPU; {INTERPRETER}=1 interprets its kernels"


def _cuda() -> tuple[State, str]:
    if not list(Path(rk.__file__).parent.glob("_C_cuda.*so")):
        return State.ABSENT, "not built, see above"
    if not torch.cuda.is_available():
        return State.ABSENT, "built, needs a GPU and a torch for it"
    try:
        _backends.has_cuda_library()
    except Exception as error:  # a library that does not fit this torch
        return State.FAILED, f"built, but cannot be loaded: {_first_line(error)}"
    return State.OK, torch.cuda.get_device_name()


def _extras() -> Iterator[Finding]:
    """What each extra asks for: the versions there, or how to get what is missing."""
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "Extras",
            "all",
            State.ABSENT,
            f"unknown: {DISTRIBUTION} is used from its "
            "sources; run: pip install --no-build-isolation -e .",
        )
        return
    requirements = distribution.requires or []
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        packages, others = _contents(extra, requirements)
        wanted = {*packages}.union(*(_contents(other, requirements)[0] for other in others))
        missing = sorted(package for package in wanted if _version(package) is None)
        if missing:
            detail = f"without {', '.join(missing)}; run: {_install(extra)}"
            yield Finding("Extras", extra, State.ABSENT, detail)
        else:
            versions = [f"{package} {_version(package)}" for package in packages]
            yield Finding("Extras", extra, State.OK, ", ".join([*versions, *others]))


def _contents(extra: str, requirements: list[str]) -> tuple[list[str], list[str]]:
    """An extra's packages, and the other extras that come with it, directly or not."""
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


class _Case(NamedTuple):
    """Small whole numbers: every order of additions gives the same sums, so all must be equal."""

    query: Tensor
    table: Tensor
    candidates: Tensor
    targets: Tensor
    exclude: Tensor


def make_case(dtype: torch.dtype, device: str = "cpu") -> _Case:
    """Embeddings full of ties, and ids with padding, repeats and the target among them."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    rows, dim, num_items = 5, 40, 70
    candidates = draw(-1, num_items, rows, 12)
    targets = draw(0, num_items, rows)
    candidates[:, 0], candidates[:, 5] = targets, targets
    exclude = draw(-1, num_items, rows, 6)
    return _Case(
        draw(-2, 3, rows, dim).to(device, dtype),
        draw(-2, 3, num_items, dim).to(device, dtype),
        candidates.to(device),
        targets.to(device),
        exclude.to(device),
    )


def _results(case: _Case, backend: str) -> dict[str, Any]:
    """What a backend makes of a case, operator by operator."""
    query, table, candidates, targets, exclude = case
    results: dict[str, Any] = {
        "score_candidates": rk.score_candidates(query, table, candidates, backend=backend),
        "rank_candidates": rk.rank_candidates(query, table, candidates, backend=backend),
        "reward_candidates": rk.reward_candidates(
            query, table, candidates, _METRICS, backend=backend
        ),
    }
    if backend == "cuda":  # which has the candidate operators only
        return results
    return results | {
        "rank_catalog": rk.rank_catalog(query, table, targets, exclude, backend=backend),
        "reward_catalog": rk.reward_catalog(
            query, table, targets, exclude, _METRICS, backend=backend
        ),
        "topk_catalog": rk.topk_catalog(query, table, 9, exclude, backend=backend),
    }


def _self_check(backends: list[str]) -> Iterator[Finding]:
    for backend in backends:
        device = "cuda" if torch.cuda.is_available() and backend != "cpu" else "cpu"
        if backend == "cpu":
            for level in _backends.cpu_levels():
                with use_cpu_level(level):
                    yield _checked(f"cpu {level}", partial(_check_backend, "cpu", "cpu"))
        else:
            yield _checked(backend, partial(_check_backend, backend, device))
    yield _checked("refine", _check_refine)
    yield _checked("sampler", _check_sampler)


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding("Self-check against the definition", name, State.OK, check())
    except Exception as error:  # a broken backend may raise anything
        return Finding("Self-check against the definition", name, State.FAILED, _first_line(error))


def _check_backend(backend: str, device: str) -> str:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for dtype in dtypes:
        got = _results(make_case(dtype, device), backend)
        want = _results(make_case(dtype), "reference")
        for operator, result in got.items():
            _compare(f"{operator} in {dtype}", result, want[operator])
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{len(got)} operators in {names}"


def _check_refine() -> str:
    """Counts from int8 must be those of the table."""
    query, table, _, targets, exclude = make_case(torch.float32)
    got = rk.rank_catalog(query, rk.quantize_table(table), targets, exclude, refine=True)
    _compare("rank_catalog from int8", got, reference.rank_catalog(query, table, targets, exclude))
    return "counts from int8 are those of float32"


def _check_sampler() -> str:
    """Negatives must be unseen, distinct, and a user's own whatever the order of users."""
    seen, users = [[1, 2, 3], [4], []], [7, 8, 9]
    drawn = rk.sample_negatives(12, seen, 8, user_ids=users)
    turned = rk.sample_negatives(12, seen[::-1], 8, user_ids=users[::-1])
    if not np.array_equal(drawn, turned[::-1]):
        raise AssertionError("a user's negatives depend on the order of users")
    for user, row in zip(seen, drawn.tolist(), strict=True):
        if len({*row, *user}) != 8 + len(user) or not all(1 <= item < 12 for item in row):
            raise AssertionError(f"{row} are no 8 distinct items that were not seen in {user}")
    return "distinct, unseen, and the same in any order"


def _compare(what: str, got: Any, want: Any) -> None:
    """Raise an AssertionError if results differ: counts, ids and scores at all, metrics by 1e-5."""
    if isinstance(got, tuple):
        for one, other in zip(got, want, strict=True):
            _compare(what, one, other)
        return
    got, want = got.cpu().double(), want.cpu().double()
    tolerance = 1e-5 if what.startswith("reward") else 0.0
    if got.shape != want.shape or not torch.allclose(got, want, rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{what} differs from the definition")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
