"""Evaluation over several workers counts what one process counts."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rl4rec_kernels as rk

EXAMPLE = Path(__file__).parents[2] / "examples" / "evaluate_large.py"
SIZES = ["--items", "500", "--dim", "16", "--users", "5000"]


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spec = importlib.util.spec_from_file_location("evaluate_large", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_ray(example, tmp_path, ray, capsys):
    counts = example.main(["--workers", "2", *SIZES])
    index = rk.ItemIndex.open(next(tmp_path.glob("*.safetensors")))
    query, targets = example.random_users(index, 5000)
    want = rk.rank_catalog(query, index.table, targets, valid=index.valid)
    for part, other in zip(counts, want, strict=True):
        assert torch.equal(part, other)
    printed = capsys.readouterr().out
    mean = rk.metrics_from_counts(want, ("ndcg@10",)).double().mean().item()
    assert f"ndcg@10 {mean:.4f}" in printed
    assert 0.05 < mean < 0.95
    assert "5,000 users among 500 items" in printed


def test_under_torchrun(example, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(EXAMPLE), "--engine", "torchrun", *SIZES],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    index = rk.ItemIndex.open(next(tmp_path.glob("*.safetensors")))
    query, targets = example.random_users(index, 5000)
    metrics = rk.reward_catalog(
        query, index.table, targets, None, example.METRICS, valid=index.valid
    )
    for name, value in zip(example.METRICS, metrics.double().mean(0).tolist(), strict=True):
        assert f"{name} {value:.4f}" in done.stdout
    assert done.stdout.count("5,000 users") == 1
