"""``rl4rec evaluate``."""

import json

import numpy as np

import rl4rec_kernels as rk
from rl4rec_kernels.cli.evaluate import evaluate_dataset, read_texts
from tests.cli.commands import rl4rec
from tests.errors import raises


def test_evaluate(data_dir, index, tmp_path):
    command = f"evaluate toys --index {index} --num-negs 3 --num-bootstrap 20 --out {tmp_path}"
    done = rl4rec(*command.split(), "--ks", "1, 10", RL4REC_DATA=str(data_dir))
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
    command = f"evaluate --data {data_dir / 'toys'} --texts {texts} --index {index} --num-negs 0"
    done = rl4rec(*command.split(), "--groups", "", "--ks", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "evaluating 1 of the 2 users" in done.stderr
    saved = json.loads((tmp_path / "toys_test.json").read_text())
    assert saved["overall"]["protocols"]["whole catalog"]["hit@1"]["mean"] == 1
    assert saved["groups"] == {}


def test_evaluate_embeddings(data_dir, tmp_path):
    items = np.zeros((13, 12), np.float32)
    items[1:] = np.eye(12)
    users = items[[5, 8]] + items[[2, 1]] / 2  # the targets score highest
    np.save(tmp_path / "items.npy", items)
    np.save(tmp_path / "users.npy", users)
    command = ["evaluate", "toys", "--data-dir", str(data_dir), "--out", str(tmp_path), "--ks", "1"]
    command += ["--num-negs", "3", "--num-bootstrap", "20", "--embeddings"]
    done = rl4rec(*command, str(tmp_path / "users.npy"), str(tmp_path / "items.npy"))
    assert done.returncode == 0, done.stderr
    assert "by history length" not in done.stdout[done.stdout.rindex("toys, test") :]
    assert "by target popularity" in done.stdout
    saved = json.loads((tmp_path / "toys_test.json").read_text())
    for protocol in ("sampled", "whole catalog"):
        assert saved["overall"]["protocols"][protocol]["hit@1"]["mean"] == 1

    np.save(tmp_path / "users.npy", users[:1])
    done = rl4rec(*command, str(tmp_path / "users.npy"), str(tmp_path / "items.npy"))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    for part in (str(tmp_path / "users.npy"), "2 users", "(1, 12)"):
        assert part in done.stderr


def test_read_texts():
    lines = ['{"user_id": 3, "text": "a"}', "", '{"user_id": 1, "text": ""}']
    assert read_texts(lines) == {3: "a", 1: ""}
    for line, named in {
        "{": "JSON",
        "[1]": "[1]",
        '{"user_id": "3", "text": "a"}': '"3"',
        '{"user_id": 3, "text": "b"}': "user 3",
    }.items():
        with raises(ValueError, "line 2", named):
            read_texts([lines[0], line])
    with raises(ValueError, "no texts", "user_id"):
        read_texts([])


def test_texts_of_a_model_on_movielens(ml100k_dir, encoder, index_cache, monkeypatch):
    """Texts that name the target rank it higher than the latest titles do."""
    monkeypatch.setenv("RL4REC_CACHE", str(index_cache))
    items = rk.load_item_metadata("ml-100k", data_dir=ml100k_dir)
    test = rk.RecommendationDataset(
        "ml-100k", items, rk.PromptGenerator(items), "test", data_dir=ml100k_dir
    )
    texts = {
        int(test.user_ids[row]): f"I think… <query>{items[test.targets[row]]['title']}</query>"
        for row in range(0, 60)
    }
    options = {"data_dir": ml100k_dir, "num_negs": 20, "ks": (1, 10), "num_bootstrap": 20}
    named = evaluate_dataset("ml-100k", encoder, texts=texts, **options)
    assert named.overall.users == 60
    assert list(named.groups) == ["history length", "target popularity"]
    latest = evaluate_dataset("ml-100k", encoder, num_users=60, group_by=(), **options)
    assert latest.overall.users == 60
    assert not latest.groups
    ndcg = [result.overall.protocols["whole catalog"]["ndcg@10"].mean for result in (named, latest)]
    assert ndcg[0] > 0.8 > 0.2 > ndcg[1]
    with raises(ValueError, "user 99999", "test"):
        evaluate_dataset("ml-100k", encoder, texts={99999: "a"}, **options)
    with raises(ValueError, "grouping", "'age'", "history"):
        evaluate_dataset("ml-100k", encoder, group_by=("age",), **options)
