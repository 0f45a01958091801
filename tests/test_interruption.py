"""Ctrl-C ends long work soon, without a half-written file."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _blocks
from tests.ops.catalog_cases import assert_counts, make_catalog_case

SOON_S = 20  # for work that takes minutes; the machine may be busy

START = """
import torch, rl4rec_kernels as rk
torch.set_num_threads(1)

def go():
    print("go", flush=True)
"""
WORK = {
    "rank_catalog": """
query, table = torch.randn(400_000, 64), torch.randn(200_000, 64)
go()
rk.rank_catalog(query, table, torch.zeros(400_000, dtype=torch.int64))
""",
    "topk_catalog": """
query, table = torch.randn(400_000, 64), torch.randn(200_000, 64)
go()
rk.topk_catalog(query, table, 10)
""",
    "slices": """
from rl4rec_kernels.ops import _blocks
_blocks.SLICE_BYTES = 30 << 20
query, table = torch.randn(400_000, 64), torch.randn(200_000, 64)
go()
rk.rank_catalog(query, table, torch.zeros(400_000, dtype=torch.int64))
""",
    "bias_variance_estimator": """
go()
rk.bias_variance_estimator(("mrr",), 999, 10**7)
""",
    "sample_negatives": """
heavy = [1.0] * 100_000
heavy[7] = 1e12
go()
rk.sample_negatives(100_000, [[]] * 500_000, 2, weights=heavy, num_threads=1)
""",
}


def interrupted(command: list[str], started: str, **options) -> tuple[int, str]:
    """Run a command and press Ctrl-C soon after it has printed `started`."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Background jobs of a shell, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if started in line:
            break
    else:
        pytest.fail(f"it ended before printing {started!r}: {''.join(said)}")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    try:
        rest, _ = process.communicate(timeout=SOON_S)
    finally:
        process.kill()
    return process.returncode, rest


@pytest.mark.parametrize("work", list(WORK))
def test_long_calls(work):
    script = START + WORK[work]
    code, said = interrupted([sys.executable, "-c", script], "go")
    assert "KeyboardInterrupt" in said
    assert code == -signal.SIGINT


def test_building_an_index(tmp_path):
    (tmp_path / "toys").mkdir()
    items = {i: {"title": f"soap number {i} {'of many ' * 4}"} for i in range(1, 6000)}
    (tmp_path / "toys" / "item_metadata.json").write_text(json.dumps(items))
    out = tmp_path / "out"
    out.mkdir()
    (out / "toys.safetensors").write_bytes(b"the old one")
    code, said = interrupted(
        [
            sys.executable,
            "-m",
            "rl4rec_kernels",
            "index",
            "build",
            "toys",
            "--out",
            str(out / "toys.safetensors"),
            "--data-dir",
            str(tmp_path),
        ],
        "Batches",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert code == 130  # the shell's code for Ctrl-C
    assert "Traceback" not in said
    assert os.listdir(out) == ["toys.safetensors"]
    assert (out / "toys.safetensors").read_bytes() == b"the old one"


def test_evaluating(tmp_path):
    (tmp_path / "toys").mkdir()
    items = {i: {"title": f"soap number {i} {'of many ' * 4}"} for i in range(1, 300)}
    (tmp_path / "toys" / "item_metadata.json").write_text(json.dumps(items))
    histories = [[user, *range(user % 250 + 1, user % 250 + 20)] for user in range(1, 9000)]
    lines = "\n".join(" ".join(map(str, line)) for line in histories)
    (tmp_path / "toys" / "sequential_data.txt").write_text(lines)
    out = tmp_path / "out"
    code, said = interrupted(
        [
            sys.executable,
            "-m",
            "rl4rec_kernels",
            "evaluate",
            "--data",
            str(tmp_path / "toys"),
            "--out",
            str(out),
        ],
        "/282",  # the number of batches of users' texts; items have fewer
        env={**os.environ, "PYTHONUNBUFFERED": "1", "RL4REC_CACHE": str(tmp_path / "cache")},
    )
    assert code == 130
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize("exclusions", [True, False])
@pytest.mark.parametrize("rows", [None, 30], ids=["whole", "slices"])
def test_blocks_of_queries_give_the_same_results(monkeypatch, rows, exclusions):
    shape = (700, 97, 17)
    case = make_catalog_case(shape, exact=True, exclusions=exclusions)
    table = rk.quantize_table(case.table, torch.int8)

    def results():
        for items, refine in ((case.table, False), (table, True)):
            options = {"valid": case.valid, "refine": refine}
            yield rk.rank_catalog(case.query, items, case.targets, case.exclusions, **options)
            yield rk.reward_catalog(case.query, items, case.targets, case.exclusions, **options)
            yield rk.topk_catalog(case.query, items, 7, case.exclusions, **options)

    want = list(results())
    calls = []
    real = _blocks._of_queries
    monkeypatch.setattr(_blocks, "_of_queries", lambda *a: calls.append(a[1:]) or real(*a))
    monkeypatch.setattr(_blocks, "_CALL_WORK", 1)
    if rows:
        monkeypatch.setattr(_blocks, "SLICE_BYTES", rows * shape[2] * 4)
    got = list(results())
    assert {(0, 256), (256, 512), (512, 700)} == set(calls)
    for new, old in zip(got, want, strict=True):
        if isinstance(old, rk.RankCounts):
            assert_counts(new, old)
        elif isinstance(old, torch.Tensor):
            torch.testing.assert_close(new, old, rtol=2e-7 if rows else 0, atol=0)
        else:
            assert all(torch.equal(a, b) for a, b in zip(new, old, strict=True))


def test_a_bad_id_in_a_later_block_is_named_by_its_query(monkeypatch):
    query, table, targets = torch.ones(700, 4), torch.ones(9, 4), torch.ones(700).long()
    targets[600] = 9
    with pytest.raises(IndexError) as whole:
        rk.rank_catalog(query, table, targets)
    monkeypatch.setattr(_blocks, "_CALL_WORK", 1)
    for call in (rk.rank_catalog, rk.reward_catalog):
        with pytest.raises(IndexError) as blocks:
            call(query, table, targets)
        assert str(blocks.value) == str(whole.value)
