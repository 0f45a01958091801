"""A small data set and its index, built by the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import rl4rec


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "toys").mkdir()
    items = {
        i: {"title": f"{color} {thing}"}
        for i, (color, thing) in enumerate(
            [(c, t) for c in ("red", "blue", "green") for t in ("ball", "car", "doll", "kite")], 1
        )
    }
    (root / "toys" / "item_metadata.json").write_text(json.dumps(items))
    (root / "toys" / "sequential_data.txt").write_text("1 1 2 3 4 5\n2 5 6 7 8\n")
    return root


@pytest.fixture(scope="session")
def index(data_dir) -> Path:
    path = data_dir / "toys.safetensors"
    done = rl4rec("index", "build", "toys", "--out", str(path), RL4REC_DATA=str(data_dir))
    assert done.returncode == 0, done.stderr
    assert "12 items of 384 dimensions" in done.stdout
    return path
