"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from rl4rec_kernels.cli.app import read_requests
from rl4rec_kernels.cli.demo import METRICS, fetch_ml100k, run


def rl4rec(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rl4rec_kernels", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "toys").mkdir()
    items = {
        i: {"title": f"{colour} {thing}"}
        for i, (colour, thing) in enumerate(
            [(c, t) for c in ("red", "blue", "green") for t in ("ball", "car", "doll", "kite")], 1
        )
    }
    (root / "toys" / "item_metadata.json").write_text(json.dumps(items))
    (root / "toys" / "sequential_data.txt").write_text("1 1 2 3 4 5\n2 5 6 7 8\n")
    return root


@pytest.fixture(scope="module")
def index(data_dir):
    path = data_dir / "toys.safetensors"
    done = rl4rec("index", "build", "toys", "--out", str(path), RL4REC_DATA=str(data_dir))
    assert done.returncode == 0, done.stderr
    assert "12 items of 384 dimensions" in done.stdout
    return path


def test_index_info(index):
    info = json.loads(rl4rec("index", "info", str(index)).stdout)
    assert (info["items"], info["rows"], info["dim"], info["dtype"]) == (12, 13, 384, "float32")


def test_sample(data_dir):
    done = rl4rec("sample", "toys", "--num-negs", "5", "--data-dir", str(data_dir))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["user_id"], row["target"], row["history"]) for row in rows] == [
        (1, 3, [1, 2]),
        (2, 6, [5]),
    ]
    for row, seen in zip(rows, ({1, 2, 3, 4, 5}, {5, 6, 7, 8}), strict=True):
        assert len(set(row["neg_items"])) == 5
        assert not seen & set(row["neg_items"])


def test_sample_hard_negatives(data_dir, index):
    done = rl4rec(
        "sample",
        "toys",
        "--num-negs",
        "2",
        "--hard",
        "3",
        "--skip-top",
        "1",
        "--index",
        str(index),
        "--data-dir",
        str(data_dir),
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line)["neg_items"] for line in done.stdout.splitlines())
    assert len(set(first)) == len(set(second)) == 5
    assert not {1, 2, 3, 4, 5} & set(first)
    assert not {5, 6, 7, 8} & set(second)
    # User 1 had a red car and a red ball, user 2 a blue ball: what is most like them and unseen are
    # other cars and balls, of which the best is left out.
    assert set(first[:2]) <= {6, 9, 10}
    assert second[0] in (1, 9)


def test_reward(index):
    requests = [
        {"text": "<query>red ball</query>", "target": 1, "neg_items": [2, 7, 12]},
        {"text": "green kite", "target": 12, "history": [1, 2]},
        {"text": "green kite", "target": 1, "neg_items": [12]},
    ]
    done = rl4rec(
        "reward",
        "--index",
        str(index),
        "--reward-type",
        "rank",
        stdin="\n\n".join(map(json.dumps, requests)),
    )
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1, 1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 must be a JSON object"),
        ('{"target": 1}', "line 2: 'text' must be a string"),
        ('{"text": "a", "target": "b"}', "line 2: 'target' must be an item id"),
        ('{"text": "a", "target": true}', "line 2: 'target' must be an item id"),
        ('{"text": "a", "target": 1, "neg_items": [1.5]}', "line 2: 'neg_items' must be a list"),
        ('{"text": "a", "target": 1, "history": 7}', "line 2: 'history' must be a list"),
    ],
)
def test_bad_lines_are_named(line, words):
    good = '{"text": "red ball", "target": 1}'
    with pytest.raises(ValueError, match=words):
        list(read_requests([good, line]))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"target": ' + "9" * 5000 + "}"])
def test_lines_that_python_cannot_parse_are_named(line):
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        list(read_requests([line]))


def test_reward_reads_and_writes_utf8_in_any_locale(index, data_dir):
    line = '\ufeff{"text": "빨간 공", "target": 1}\n'.encode()
    done = subprocess.run(
        [sys.executable, "-m", "rl4rec_kernels", "reward", "--index", str(index)],
        input=line,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    items = data_dir / "balls" / "item_metadata.json"
    items.parent.mkdir()
    items.write_text(json.dumps({i: {"title": f"공 {i}"} for i in range(1, 9)}))
    (items.parent / "sequential_data.txt").write_text("1 1 2 3 4 5\n")
    variables = {"RL4REC_DATA": str(data_dir), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "rl4rec_kernels", "sample", "balls", "--num-negs", "1"],
        capture_output=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert "1. 공 1" in json.loads(done.stdout.decode())["prompt"]


def test_no_negatives_are_the_whole_catalog_beside_other_lines_too(index):
    lines = [
        {"text": "red ball", "target": 1, "neg_items": [2]},
        {"text": "green kite", "target": 1, "neg_items": []},
        {"text": "green kite", "target": 1},
    ]
    done = rl4rec(
        "reward",
        "--index",
        str(index),
        "--reward-type",
        "rank",
        stdin="\n".join(map(json.dumps, lines)),
    )
    first, second, third = (json.loads(line)["reward"] for line in done.stdout.splitlines())
    assert (first, second) == (1, third)
    assert third > 2


def test_a_reader_that_leaves_is_no_error(data_dir):
    command = f"{sys.executable} -m rl4rec_kernels sample toys --data-dir {data_dir} --num-negs 1"
    done = subprocess.run(
        f"{command} | head -c 5", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout == '{"pro'
    assert "Traceback" not in done.stderr


def test_the_index_file_is_checked_before_encoding(data_dir):
    for out, words in (("x.bin", "must be named"), ("no/x.safetensors", "make it first")):
        done = rl4rec(
            "index",
            "build",
            "toys",
            "--out",
            out,
            "--encoder",
            "/none",
            RL4REC_DATA=str(data_dir),
        )
        assert done.returncode == 2
        assert words in done.stderr


def test_ids_that_the_index_lacks_are_named(index):
    line = '{"text": "a", "target": 99, "neg_items": [1]}'
    done = rl4rec("reward", "--index", str(index), stdin=f'{{"text": "a", "target": 1}}\n\n{line}')
    assert done.returncode == 2
    assert "line 3: targets: item 99 is not in the index" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_evaluate(data_dir, index, tmp_path):
    done = rl4rec(
        "evaluate",
        "toys",
        "--index",
        str(index),
        "--num-negs",
        "3",
        "--ks",
        "1, 10",
        "--num-bootstrap",
        "20",
        "--out",
        str(tmp_path),
        RL4REC_DATA=str(data_dir),
    )
    assert done.returncode == 0, done.stderr
    for words in ("toys, test", "whole catalog", "by history length", "by target popularity"):
        assert words in done.stdout
    saved = json.loads((tmp_path / "toys_test.json").read_text())
    assert saved["overall"]["users"] == 2
    assert saved["settings"]["items"] == [8, 9]
    assert list(saved["overall"]["protocols"]) == [
        "sampled",
        "whole catalog",
        "corrected (unbiased)",
        "corrected (bias-variance)",
    ]
    assert (tmp_path / "toys_test.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_texts_of_a_model(data_dir, index, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"user_id": 2, "text": "so: <query>blue kite</query>"}\n')  # item 8
    done = rl4rec(
        "evaluate",
        "--data",
        str(data_dir / "toys"),
        "--texts",
        str(texts),
        "--index",
        str(index),
        "--num-negs",
        "0",
        "--groups",
        "",
        "--ks",
        "1",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "evaluating 1 of the 2 users" in done.stderr
    saved = json.loads((tmp_path / "toys_test.json").read_text())
    assert saved["overall"]["protocols"]["whole catalog"]["hit@1"]["mean"] == 1
    assert saved["groups"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "info", "nothing.safetensors"], "there is no file nothing.safetensors"),
        (["sample", "nothing"], "no dataset 'nothing'"),
        (["sample", "nothing", "--skip-top", "2"], "pass --hard N, or drop them"),
        (["demo", "--data", "nowhere"], "--data nowhere is not a directory"),
        (["demo", "--users", "0"], "Invalid value for '--users'"),
        (["reward", "--index", "nothing.safetensors"], "there is no file"),
        (["evaluate"], "pass the name of a data set, or its directory"),
        (["evaluate", "nothing", "--ks", "ten"], "--ks must be whole numbers"),
        (["evaluate", "--data", "nowhere"], "--data nowhere is not a directory"),
        (["evaluate", "nothing", "--texts", "nothing.jsonl"], "nothing.jsonl"),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_errors_are_one_line(arguments, words):
    done = rl4rec(*arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named_in_one_line():
    code = (
        "import sys; sys.modules['typer'] = None; from rl4rec_kernels.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: typer is not installed; run: pip install 'rl4rec-kernels[cli]'\n"
    )


def test_demo_on_movielens(ml100k_dir, encoder, tmp_path):
    done = rl4rec(
        "demo",
        "--users",
        "200",
        "--out",
        str(tmp_path),
        RL4REC_ML100K=str(ml100k_dir),
        RL4REC_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    for words in ("ml-100k: 200 users", "99 negatives", "whole catalog", "popularity", "random"):
        assert words in done.stdout
    assert (tmp_path / "ml-100k_ranks.png").read_bytes()[:4] == b"\x89PNG"


def test_demo_shows_titles_as_they_are(tmp_path, encoder):
    """Brackets are no markup: the console would swallow [red] and stumble over [/b]."""
    (tmp_path / "toys").mkdir()
    items = {i: {"title": f"[/b] car [red] {i}"} for i in range(1, 121)}
    (tmp_path / "toys" / "item_metadata.json").write_text(json.dumps(items))
    (tmp_path / "toys" / "sequential_data.txt").write_text("1 1 2 3 4 5\n2 5 6 7 8\n")
    done = rl4rec(
        "demo",
        "--data",
        str(tmp_path / "toys"),
        "--out",
        str(tmp_path),
        RL4REC_CACHE=str(tmp_path / "cache"),
        COLUMNS="200",
    )
    assert done.returncode == 0, done.stderr
    assert "text: [/b] car [red] 4; [/b] car [red] 3" in done.stdout
    assert "next item: [/b] car [red] 5" in done.stdout


def test_demo_on_beauty_finds_more_than_chance(beauty_dir, encoder, tmp_path, monkeypatch):
    """Recent titles say something of the next item; with fewer items it runs in seconds."""
    source, target = beauty_dir / "beauty", tmp_path / "beauty"
    target.mkdir()
    metadata = json.loads((source / "item_metadata.json").read_text())
    metadata = {item: metadata[item] for item in metadata if int(item) <= 1500}
    (target / "item_metadata.json").write_text(json.dumps(metadata))
    with (source / "sequential_data.txt").open() as lines:
        users = [line.split() for line in lines]
    rows = [[user, *(i for i in items if int(i) <= 1500)] for user, *items in users]
    text = "\n".join(" ".join(row) for row in rows if len(row) > 5)
    (target / "sequential_data.txt").write_text(text)
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    first, second = (run(target, 150, 42, encoder) for _ in range(2))
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
    with pytest.raises(RuntimeError, match="could not download recbole"):
        fetch_ml100k()
