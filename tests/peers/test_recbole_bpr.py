"""The example that evaluates RecBole's BPR: what it prints is equal where it should be."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("recbole")

EXAMPLE = Path(__file__).parents[2] / "examples" / "recbole_bpr.py"
USERS, ITEMS = 80, 300


def test_both_evaluations_agree(tmp_path):
    rng = np.random.default_rng(0)
    sequences = (1 + rng.choice(ITEMS, 8, replace=False) for _ in range(USERS))
    lines = (" ".join(map(str, (user, *row))) for user, row in enumerate(sequences, 1))
    (tmp_path / "random").mkdir()
    (tmp_path / "random" / "sequential_data.txt").write_text("\n".join(lines), encoding="utf-8")
    # In a separate process, because RecBole changes settings of torch and NumPy.
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--data", str(tmp_path / "random"), "--epochs", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^full: RecBole [\d.]+ s, here [\d.]+ s", done.stdout, re.MULTILINE)
    rows = re.findall(r"^(\w+,.*?)  ndcg@10 (\S+)  hit@10 (\S+)  mrr@10 (\S+)$", done.stdout, re.M)
    values = {name.strip(): np.array(numbers, dtype=float) for name, *numbers in rows}
    full, sampled = values["full, RecBole"], values["uni100, RecBole"]
    assert 0 < full[0] < sampled[0] < 1
    np.testing.assert_allclose(values["full, here"], full, atol=1e-6)
    np.testing.assert_allclose(values["uni100, RecBole's negatives, here"], sampled, atol=1e-6)
    # Own negatives are others: within five standard errors of a mean of numbers in [0, 1].
    assert np.abs(values["uni100, here"] - sampled).max() < 5 * 0.5 / USERS**0.5
