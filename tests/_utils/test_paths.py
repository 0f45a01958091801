"""Paths are taken as given: the name and the ending of a link count, not those of its target."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils.paths import absolute, file_name
from rl4rec_kernels.cli.common import existing_directory
from rl4rec_kernels.cli.evaluate import evaluate_dataset
from rl4rec_kernels.cli.serve import read_datasets
from rl4rec_kernels.data import create_dataloaders, load_interactions, load_item_metadata
from rl4rec_kernels.service import deploy
from rl4rec_kernels.service.actor import load_datasets
from rl4rec_kernels.service.shards import Shard
from tests.data.cases import INTER, ITEM, write
from tests.errors import raises


@pytest.fixture
def hub(tmp_path):
    """Files as hub caches lay them out: links to files whose names are hashes."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()

    def link(name, target):
        path = tmp_path / "snapshots" / name
        path.symlink_to(f"../blobs/{target}")
        return path

    ItemIndex.from_embeddings(torch.eye(6)[1:], ids=range(1, 6)).save(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "blobs" / "0a1b")
    write(tmp_path / "blobs", "2c3d", tiny__inter=INTER, tiny__item=ITEM)
    return SimpleNamespace(
        root=tmp_path, index=link("index.safetensors", "0a1b"), data=link("tiny", "2c3d")
    )


def test_absolute_paths_keep_their_names(tmp_path, monkeypatch):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert absolute("link") == absolute("./link/") == absolute("link/.") == tmp_path / "link"
    assert absolute("link/../link") == tmp_path / "link/../link"  # which links may change
    assert absolute("link/inner/..") == tmp_path / "real"  # ".." is not a name
    assert absolute(".") == tmp_path
    monkeypatch.chdir("link")
    assert absolute(".") == tmp_path / "real"
    monkeypatch.setenv("PWD", str(tmp_path / "link"))  # as a shell sets it after `cd link`
    assert absolute(".") == tmp_path / "link"
    monkeypatch.setenv("PWD", "/")
    assert absolute(".") == tmp_path / "real"


@pytest.mark.parametrize("ending", ["", "/", "/."])
def test_a_linked_data_set_has_the_name_of_the_link(hub, ending):
    path = existing_directory(Path(f"{hub.data}{ending}"))
    assert path.name == "tiny"
    assert len(load_item_metadata(path.name, path.parent)) == 5
    assert len(load_interactions(path.name, path.parent).user_ids) == 2
    args = SimpleNamespace(dataset_name="tiny", data_dir=f"{hub.data.parent}{ending}")
    assert len(create_dataloaders(args).test.dataset) == 2


def test_a_linked_data_set_is_evaluated(hub, encoder, monkeypatch):
    monkeypatch.setenv("RL4REC_CACHE", str(hub.root))
    path = existing_directory(hub.data)
    result = evaluate_dataset(
        path.name, encoder, data_dir=path.parent, num_negs=1, ks=[1], num_bootstrap=2
    )
    assert result.overall.users == 2


def test_a_linked_index_is_opened_everywhere(hub, encoder, monkeypatch):
    monkeypatch.chdir(hub.index.parent)
    wanted = str(hub.index)
    for given in (wanted, hub.index.name, f"../snapshots/{hub.index.name}"):
        sources = read_datasets([f"toys={given}"])
        assert sources["toys"].endswith("snapshots/index.safetensors")
        assert len(load_datasets(sources, encoder, None)["toys"]) == 5
        assert Shard(sources, 0, 1).facts("toys")
    other = type("Other", (), {"__fspath__": lambda self: wanted})()
    for source in (hub.index, other):
        assert len(load_datasets({"toys": source}, encoder, None)["toys"]) == 5
    assert len(ItemIndex.open(hub.index)) == 5


@pytest.mark.parametrize("shards", [0, 2])
def test_a_started_service_gets_the_paths_as_given(hub, monkeypatch, shards):
    sent = []

    class Options:
        def options(self, **options):
            return self

        def remote(self, *arguments, **options):
            sent.append((arguments[0], options.get("data_dir")))

    class Client:
        def __init__(self, *names, **options):
            pass

        def describe(self):
            return []

    ray = SimpleNamespace(
        remote=lambda **_: lambda _: Options(),
        util=SimpleNamespace(list_named_actors=lambda **_: []),
    )
    monkeypatch.setattr(deploy, "connected_ray", lambda *_: ray)
    monkeypatch.setattr(deploy, "RetrievalService", Options())
    monkeypatch.setattr(deploy, "RetrievalClient", Client)
    monkeypatch.chdir(hub.index.parent)
    rk.start_service({"toys": "index.safetensors"}, data_dir=".", shards=shards)
    assert len(sent) == 1 + shards
    assert all(datasets == {"toys": str(hub.index)} for datasets, _ in sent)
    assert sent[-1][1] == str(hub.index.parent)


def test_saving_to_a_link_replaces_its_target(hub):
    ItemIndex.from_embeddings(torch.eye(3)[1:], ids=[1, 2]).save(hub.index)
    assert hub.index.is_symlink()
    assert hub.index.readlink().name == "0a1b"
    assert len(ItemIndex.open(hub.index)) == 2
    hub.index.with_name("new.safetensors").symlink_to("../blobs/4e5f")  # which does not exist yet
    ItemIndex.from_embeddings(torch.eye(3)[1:], ids=[1, 2]).save(
        hub.index.with_name("new.safetensors")
    )
    assert (hub.root / "blobs" / "4e5f").is_file()


@pytest.mark.parametrize("letter", ["a", "é", "漢", "🙂"])
def test_long_names_are_shortened(tmp_path, letter):
    size = len(letter.encode())
    short, long = letter * (240 // size), letter * (252 // size)
    assert file_name(short, ".safetensors") == f"{short}.safetensors"
    names = {file_name(stem, ".safetensors") for stem in (long, long[:-1] + "x")}
    assert len(names) == 2
    for name in names:
        (tmp_path / name).touch()
        assert name.endswith(".safetensors")


def test_a_data_set_with_a_long_name_is_cached(tmp_path, encoder, monkeypatch):
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    name = "n" * 252
    write(tmp_path, name, item_metadata__json=json.dumps({"1": {"title": "soap"}}))
    for _ in range(2):
        assert len(load_datasets(name, encoder, tmp_path)[name]) == 1
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with raises(FileNotFoundError, "--data", tmp_path / "none"):
        existing_directory(tmp_path / "none")
