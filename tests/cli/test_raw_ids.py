"""Commands speak of users and items by the ids of the data set's file."""

import json
import random

import pytest
from typer.testing import CliRunner

import rl4rec_kernels as rk
from rl4rec_kernels.adapters import verl
from rl4rec_kernels.adapters._scoring import score
from rl4rec_kernels.adapters.trl import TRLReward
from rl4rec_kernels.cli.app import app
from rl4rec_kernels.data.raw_ids import RawIds
from tests.errors import raises

CLI = CliRunner()
THINGS = ["red ball", "blue car", "green kite", "doll", "dry shampoo", "perfume", "comb", "towel"]
USERS = {
    "gaps": ([5, 10, 15], [3, 8, 20, 21, 40, 77, 500, 900]),
    "sparse": ([7, 10**12, 8], [9, 10**6, 10**5, 10**9, 4, 5, 6, 10**8]),
    "names": (["ann", "10", "bob"], ["B00X", "7", "007", "x y", "Ä", "z", "12", "b00x"]),
    "numbers and names": ([5, 10, 15], ["B1", "B2", "A9", "3", "2", "1", "C", "D"]),
}


@pytest.fixture(params=USERS)
def files(request, tmp_path):
    """A data set in RecBole's files: the directory, and each user's items in time order."""
    users, items = USERS[request.param]
    titles = dict(zip(items, THINGS, strict=True))
    draw = random.Random(3)
    sequences = {user: draw.sample(list(items), 5) for user in users}
    rows = [(u, i, t) for u, sequence in sequences.items() for t, i in enumerate(sequence)]
    draw.shuffle(rows)
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "raw.inter").write_text(head + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    lines = (f"{item}\t{title}\n" for item, title in titles.items())
    (folder / "raw.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(lines))
    return tmp_path, {str(user): list(map(str, sequence)) for user, sequence in sequences.items()}


def run(monkeypatch, root, command: str, stdin: str = ""):
    """Run a command in this process."""
    monkeypatch.setenv("RL4REC_DATA", str(root))
    monkeypatch.setenv("RL4REC_CACHE", str(root / "cache"))
    return CLI.invoke(app, command.split(), input=stdin)


def test_samples_texts_and_rewards_go_round(files, monkeypatch):
    root, sequences = files
    rows = (root / "raw" / "raw.item").read_text().splitlines()[1:]
    titles = dict(row.split("\t") for row in rows)
    done = run(monkeypatch, root, "sample raw --split test --num-negs 2")
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert {str(sample["user_id"]) for sample in samples} == set(sequences)
    for sample in samples:
        *history, target = sequences[str(sample["user_id"])]
        assert (list(map(str, sample["history"])), str(sample["target"])) == (history, target)
        negatives = set(map(str, sample["neg_items"]))
        assert len(negatives) == 2
        assert negatives <= set(titles) - {*history, target}
        # This text ranks first, if users and items are the right ones.
        sample["text"] = titles[target]
    texts = root / "texts.jsonl"
    texts.write_text("\n".join(map(json.dumps, samples)))
    command = f"evaluate raw --texts {texts} --num-negs 2 --groups= --ks 1 --num-bootstrap 2"
    run(monkeypatch, root, f"{command} --out {root}")
    overall = json.loads((root / "raw_test.json").read_text())["overall"]
    assert overall["users"] == 3
    assert overall["protocols"]["whole catalog"]["hit@1"]["mean"] == 1

    command = f"reward --index {root}/cache/index/raw.safetensors --k 1"
    done = run(monkeypatch, root, command, texts.read_text())
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1, 1, 1]
    samples[1]["target"] = 123456
    done = run(monkeypatch, root, command, "\n".join(map(json.dumps, samples)))
    with raises((IndexError, ValueError), "line 2", 123456):
        raise done.exception


def test_exports_have_raw_users_and_items_of_the_service(files, encoder):
    pytest.importorskip("datasets")
    root, sequences = files
    items = rk.load_item_metadata("raw", data_dir=root)
    prompts = rk.PromptGenerator(items)
    test = rk.RecommendationDataset("raw", items, prompts, "test", data_dir=root)
    rows = test.to_hf()
    assert [str(user) for user in rows["user_id"]] == list(
        map(str, test.raw_users.of(test.user_ids))
    )
    for row in rows:
        *history, target = sequences[str(row["user_id"])]
        assert list(map(str, test.raw_items.of([*row["history"], row["target"]]))) == [
            *history,
            target,
        ]
        if not test.raw_items.has_names:
            assert str(row["target"]) == target
    index = rk.ItemIndex.build(items, encoder)
    service = rk.LocalRetrievalService({"raw": index}, encoder)
    reward = TRLReward(rk.RecReward(service=service, dataset_name="raw", reward_type="rank"))
    texts = [items[target]["title"] for target in rows["target"]]
    assert reward(rows["prompt"], texts, target=rows["target"], history=rows["history"]) == [
        1,
        1,
        1,
    ]


def test_exports_may_have_raw_items_which_rewards_read(files, encoder):
    pytest.importorskip("datasets")
    root, sequences = files
    items = rk.load_item_metadata("raw", data_dir=root)
    prompts = rk.PromptGenerator(items)
    test = rk.RecommendationDataset("raw", items, prompts, "test", 2, 9999, data_dir=root)
    service = rk.LocalRetrievalService({"raw": rk.ItemIndex.build(items, encoder)}, encoder)
    reward = rk.RecReward(service=service, dataset_name="raw", reward_type="rank")
    texts = [items[target]["title"] for target in test.targets.tolist()]
    rows = test.to_hf(raw_ids=True)
    kind = str if test.raw_items.has_names else int
    for row in rows:
        *history, target = sequences[str(row["user_id"])]
        assert (list(map(str, row["history"])), str(row["target"])) == (history, target)
        assert {type(item) for item in [row["target"], *row["neg_items"]]} == {kind}
    columns = {name: rows[name] for name in ("target", "history", "neg_items")}
    assert TRLReward(reward)(rows["prompt"], texts, **columns) == [1, 1, 1]
    exported = rk.export_dataset(test, "slime", raw_ids=True)
    assert score(reward, texts, exported["label"])[0]["rank"] == 1
    row = rk.export_dataset(test, "verl", raw_ids=True)[0]
    truth = str(row["reward_model"]["ground_truth"])  # as verl may turn it into a text
    label = verl._read("raw", truth, row["extra_info"], {})[1]
    assert score(reward, texts[:1], [label])[0]["rank"] == 1
    unknown = "no such item" if test.raw_items.has_names else "3"
    error = IndexError if test.raw_items.has_names else TypeError
    for name in ("targets", "histories", "neg_items"):
        ids = {"targets": [1], "histories": [[1]], "neg_items": [[2]]}
        ids[name] = [unknown] if name == "targets" else [[unknown]]
        with raises(error, f"{name}[0]", repr(unknown)):
            reward(texts[:1], **ids)


def test_indexes_keep_the_names_of_items(files, encoder, tmp_path):
    root, _ = files
    items = rk.load_item_metadata("raw", data_dir=root)
    index = rk.ItemIndex.build(items, encoder)
    index.save(tmp_path / "raw.safetensors")
    again = rk.ItemIndex.open(tmp_path / "raw.safetensors", encoder=encoder, item_metadata=items)
    for item, fields in items.items():
        assert str(again.raw_items.of([item])[0]) == fields["token"]
        assert again.raw_items.find(fields["token"]) in (item, None)
    assert "tokens" not in str(again.info())


def test_raw_ids():
    names = RawIds(["", "ann", "007", "7"])
    assert names.of([1, 2, 3]) == ["ann", "007", 7]
    assert [names.find(raw) for raw in ("ann", "007", 7, "7", "", 1, True)] == [
        1,
        2,
        3,
        3,
        *[None] * 3,
    ]
    for numbers in (RawIds(), RawIds(["", "1", "2"]), RawIds({5: "5"})):
        assert not numbers.has_names
        assert numbers.of([5, 6]) == [5, 6]
        assert [numbers.find(raw) for raw in (5, "5", True)] == [5, None, None]
    with raises(KeyError, 4):
        names.of([4])
