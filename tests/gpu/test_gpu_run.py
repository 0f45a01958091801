"""The run on a GPU machine, rehearsed: launches are emulated, shapes are tiny."""

import json
import subprocess
import sys

import pytest

from tests.cuda.emulated import ROOT

pytest.importorskip("triton")


def test_a_dry_run_writes_its_tables(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_run", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "gpu-run.json").read_text())
    assert [(record["step"], record["result"]) for record in records] == [
        ("load", 0),
        ("tests", 0),
        ("bench", 0),
    ]
    tables = json.loads((tmp_path / "emulated.json").read_text())
    wanted = {"rl4rec, Triton", "torch.matmul alone", "2 stages", "rl4rec: encode, rank, copy"}
    assert wanted <= {row.get("contestant") for row in tables}
    assert "the times mean nothing" in (tmp_path / "emulated.md").read_text()
