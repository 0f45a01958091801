"""The commands read a data set once, and filter it."""

import json

import pytest
from typer.testing import CliRunner

from rl4rec_kernels.cli.app import app
from rl4rec_kernels.data import loading
from rl4rec_kernels.data.loading import load_data, load_item_metadata
from tests.errors import raises

SAMPLE = ("sample", "films", "--split", "test", "--num-negs", "0", "--data-dir")


@pytest.fixture
def films(tmp_path):
    (tmp_path / "films").mkdir()
    rows = [(user, item, 5, item) for user in (1, 2, 3) for item in (10, 20, 30)]
    rows += [(4, 10, 5, 1), (4, 20, 5, 2), (1, 40, 5, 50), (2, 20, 1, 60)]
    lines = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "films" / "ratings.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ((), {1: 40, 2: 20, 3: 30, 4: 20}),
        (("--k-core", "3"), {1: 30, 2: 20, 3: 30}),
        (("--k-core", "3", "--min-rating", "2"), {1: 30, 2: 30, 3: 30}),
    ],
)
def test_sample(films, monkeypatch, options, targets):
    calls = []

    def read(*arguments, **named):
        calls.append(named)
        return read_interactions(*arguments, **named)

    read_interactions = loading.read_interactions
    monkeypatch.setattr(loading, "read_interactions", read)
    done = CliRunner().invoke(app, [*SAMPLE, str(films), *options])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {row["user_id"]: row["target"] for row in rows} == targets
    assert len(calls) == 1


def test_a_prepared_data_set_keeps_its_ids(tmp_path):
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "sequential_data.txt").write_text("1 1 2 3\n2 1 2 3\n3 4 5 6\n")
    items = {i: {"title": f"toy {i}"} for i in range(1, 8)}
    (tmp_path / "toys" / "item_metadata.json").write_text(json.dumps(items))
    found = load_data("toys", tmp_path)
    assert (found.name, found.item_metadata) == ("toys", items)
    core = load_data("toys", tmp_path, k_core=2)
    assert core.user_ids.tolist() == [1, 2]
    titles = {i: fields["title"] for i, fields in (core.item_metadata or {}).items()}
    assert titles == {i: items[i]["title"] for i in (1, 2, 3)}
    assert load_item_metadata("toys", tmp_path, k_core=2) == core.item_metadata
    for load in (load_data, load_item_metadata):
        with raises(ValueError, "min_rating", 3):
            load("toys", tmp_path, min_rating=3)
