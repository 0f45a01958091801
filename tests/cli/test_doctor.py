"""``rl4rec doctor``, also on installations that lack something."""

import re

import pytest
import torch

from rl4rec_kernels.cli import doctor
from rl4rec_kernels.cli.doctor import Finding, State
from tests.cli.commands import python

# Imitates an environment without extras: neither their modules nor their versions are found.
BARE = """
import importlib.metadata, runpy, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "rich", "ray", "triton", "sentence_transformers"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
find = importlib.metadata.version
def version(name):
    if name in {"typer", "rich", "ray", "triton", "sentence-transformers"}:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.version = version
"""


def state_of(report: str, name: str) -> str:
    """The first word of the line about `name`."""
    found = re.search(rf"^  (\S+) +{re.escape(name)} ", report, re.MULTILINE)
    assert found, f"{name} is not in\n{report}"
    return found[1]


def test_it_reports_and_checks_the_installation():
    done = python("-m", "rl4rec_kernels", "doctor", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for name in ("operators", "sampler", "encoder", "cpu", "cpu portable", "refine"):
        assert state_of(done.stdout, name) == "ok"
    if not torch.cuda.is_available():
        assert state_of(done.stdout, "triton") == "-" or "interpreted" in done.stdout


@pytest.mark.parametrize(
    "start",
    [
        'runpy.run_module("rl4rec_kernels.cli.doctor", run_name="__main__")',
        'sys.argv = ["rl4rec", "doctor"]; from rl4rec_kernels.__main__ import main; main()',
    ],
    ids=["module", "command"],
)
def test_it_needs_no_extra(start):
    done = python("-c", BARE + start)
    assert done.returncode == int(torch.cuda.is_available()), done.stdout + done.stderr
    assert state_of(done.stdout, "ray") == "-"
    assert (
        "missing ray, sentence-transformers; run: pip install 'rl4rec-kernels[ray]'" in done.stdout
    )
    assert state_of(done.stdout, "cpu") == "ok"


def test_a_wrong_result_is_reported(monkeypatch, capsys):
    right = doctor.ops.rank_candidates

    def wrong(*args, backend, **options):
        counts = right(*args, backend=backend, **options)
        return counts if backend == "reference" else counts._replace(above=counts.above + 1)

    monkeypatch.setattr(doctor.ops, "rank_candidates", wrong)
    monkeypatch.setattr(doctor, "_runnable", lambda: [Finding("Backends", "cpu", State.OK, "")])
    assert doctor.main() == 1
    report = capsys.readouterr().out
    assert state_of(report, "cpu portable") == "FAILED"
    assert "rank_candidates in torch.float32 differs from the reference" in report
    assert report.splitlines()[-1].startswith("failed: cpu ")


def test_a_broken_triton_is_reported(monkeypatch):
    def broken(name):
        raise OSError("libtriton.so: undefined symbol: x\nand more")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.setattr(doctor, "_version", lambda package: "3.9.0")
    assert doctor._triton() == (
        State.FAILED,
        "triton 3.9.0 cannot be imported: OSError: libtriton.so: undefined symbol: x",
    )


def test_the_level_is_restored():
    before = doctor.ops.cpu_level()
    findings = list(doctor._self_check(["cpu"]))
    assert [finding.state for finding in findings] == [State.OK] * len(findings)
    assert doctor.ops.cpu_level() == before
