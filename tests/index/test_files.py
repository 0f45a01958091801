"""Index files: saving, mapping, importing, and errors about bad ones."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.memory import peak_growth
from rl4rec_kernels import Encoder, ItemIndex
from tests.data.test_files import KINDS, pack
from tests.errors import raises
from tests.index.cases import METADATA


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_and_opened_again(tmp_path, encoder, dtype):
    index = ItemIndex.build(METADATA, encoder, dtype=dtype)
    path = tmp_path / "index.safetensors"
    index.save(path)
    index.save(path)  # replaces
    again = ItemIndex.open(path, encoder=encoder, item_metadata=METADATA)
    assert torch.equal(again.table, index.table)
    assert torch.equal(again.valid, index.valid)
    assert again.info() == index.info()
    assert again.info()["items"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["index.safetensors"]
    assert oct(path.stat().st_mode & 0o044) == oct(0o044)


def test_another_encoder_or_other_metadata_are_refused(tmp_path, index, encoder):
    path = tmp_path / "index.safetensors"
    index.save(path)
    with raises(ValueError, "another encoder", "build it again"):
        ItemIndex.open(path, encoder=Encoder(encoder.model, item_prefix="passage: "))
    changed = {**METADATA, 4: {"category": "Soaps"}}
    with raises(ValueError, str(path), "other metadata", "build it again"):
        ItemIndex.open(path, item_metadata=changed)
    with raises(ValueError, str(path), "other metadata"):
        ItemIndex.open(path, item_metadata={**METADATA, 5: {"title": "new"}})
    ItemIndex.open(path, item_metadata={**METADATA, 4: {"category": "Soap", "price": 3}})


def test_the_origin_of_imported_embeddings_is_unknown(tmp_path, encoder):
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.ones(4, 384), ids=range(1, 5)).save(path)
    assert len(ItemIndex.open(path, encoder=encoder)) == 4
    with raises(ValueError, str(path), "without item_metadata"):
        ItemIndex.open(path, item_metadata=METADATA)


def test_the_table_is_mapped_into_memory(tmp_path):
    """Opening 300 MB must not take 300 MB of memory."""
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.ones(200_000, 384), ids=range(200_000)).save(path)
    setup = "import torch, safetensors.torch; from rl4rec_kernels import ItemIndex, rank_candidates"
    work = f"""
index = ItemIndex.open({str(path)!r})
counts = rank_candidates(torch.ones(1, 384), index.table, torch.tensor([[5, 100_000, 199_999]]))
assert counts.tied.item() == 2
"""
    assert peak_growth(setup, work) < 50


def test_a_failed_save_keeps_the_old_file(tmp_path, index):
    path = tmp_path / "index.safetensors"
    index.save(path)
    before = path.read_bytes()
    index = ItemIndex(index.table, index.valid, {})
    index.origin["encoder"] = object()
    with pytest.raises(TypeError):
        index.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index.safetensors"]


def test_import_of_tensors_and_arrays(tmp_path):
    table = torch.randn(6, 8)
    table[[0, 3]] = 0
    want = [
        False,
        True,
        True,
        False,
        True,
        True,
    ]  # a row of zeros is not an item
    torch.save(table, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.asfortranarray(table.numpy()))
    torch.save({"item_embeddings": table.half(), "name": "x"}, tmp_path / "c.pt")
    for name, dtype in (("a.pt", torch.float32), ("b.npy", torch.float32), ("c.pt", torch.float16)):
        index = ItemIndex.import_file(tmp_path / name)
        assert torch.equal(index.table, table.to(dtype))
        assert index.table.is_contiguous()  # otherwise every call would copy it
        assert index.valid.tolist() == want
    torch.save({"table": table[1:3], "ids": torch.tensor([7, 2])}, tmp_path / "d.pt")
    save_file({"table": table[1:3], "ids": torch.tensor([7, 2])}, tmp_path / "d.safetensors")
    for name in ("d.pt", "d.safetensors"):
        index = ItemIndex.import_file(tmp_path / name)
        assert torch.equal(index.table[[7, 2]], table[1:3])
        assert index.valid.nonzero().flatten().tolist() == [2, 7]
    index.save(tmp_path / "index.safetensors")
    with raises(ValueError, tmp_path / "index.safetensors", "ItemIndex.open"):
        ItemIndex.import_file(tmp_path / "index.safetensors")
    given = ItemIndex.from_embeddings(table, valid=torch.ones(6, dtype=torch.bool))
    assert len(given) == 6


NUMBERED = torch.arange(1, 51).float()[:, None].expand(50, 8).contiguous()  # row i is item i + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["tensor", "a.npy", "a.pt", "dict.pt", "a.safetensors"])
def test_a_first_item_in_row_0_is_never_dropped(tmp_path, form, dtype):
    """Without a word, every item would be taken for the one before it."""
    table, path = NUMBERED.to(dtype), tmp_path / form
    if form == "a.npy":
        if dtype == torch.bfloat16:
            pytest.skip("NumPy has no bfloat16")
        np.save(path, table.numpy())
    elif form == "a.safetensors":
        save_file({"embeddings": table}, path)
    elif form != "tensor":
        torch.save({"table": table} if form == "dict.pt" else table, path)

    def load(**options):
        if form == "tensor":
            return ItemIndex.from_embeddings(table, **options)
        return ItemIndex.import_file(path, **options)

    with raises(ValueError, "embeddings", "row 0", "ids=range(1, 51)", "valid="):
        load()
    if form != "tensor":
        with raises(ValueError, path):
            load()
    index = load(ids=range(1, 51))
    assert (len(index), index.num_rows, bool(index.valid[0])) == (50, 51, False)
    assert torch.equal(index.table[1:], table)
    index = load(valid=torch.ones(50, dtype=torch.bool))
    assert bool(index.valid[0])
    assert torch.equal(index.table, table)
    index = load(valid=torch.arange(50) > 0)  # row 0 is padding that is not zeros
    assert (len(index), bool(index.valid[0])) == (49, False)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_no_pickled_object_is_ever_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"table": Evil()}, "evil.pt")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for name in ("evil.pt", "evil.npy"):
        with raises(ValueError, name, "never loaded" if name == "evil.pt" else "plain array"):
            ItemIndex.import_file(name)
    assert not (tmp_path / "evil").exists()


def test_bad_files_are_named(tmp_path, index):
    with raises(FileNotFoundError, tmp_path / "none.safetensors"):
        ItemIndex.open(tmp_path / "none.safetensors")
    with raises(ValueError, tmp_path / "index.pt", "*.safetensors"):
        ItemIndex.open(tmp_path / "index.pt")
    with raises(FileNotFoundError, tmp_path / "none", "create it"):
        index.save(tmp_path / "none" / "index.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with raises(ValueError, path, "not an item index"):
        ItemIndex.open(path)
    index.save(path)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with raises(ValueError, path, "is damaged", "build it again"):
            ItemIndex.open(path)
    (tmp_path / "table.csv").write_text("1,2")
    with raises(ValueError, tmp_path / "table.csv", ".npy or .pt"):
        ItemIndex.import_file(tmp_path / "table.csv")
    for name in ("table.npy", "table.pt", "short.pt"):
        (tmp_path / name).write_bytes(b"junk" if name == "short.pt" else b"no such thing")
        why = "plain array" if name == "table.npy" else "never loaded"
        with raises(ValueError, tmp_path / name, why):
            ItemIndex.import_file(tmp_path / name)
    for kind in (">f4", [("x", "f4")]):
        np.save(tmp_path / "table.npy", np.zeros((3, 2), dtype=kind))
        with raises(ValueError, tmp_path / "table.npy", "plain array"):
            ItemIndex.import_file(tmp_path / "table.npy")
    torch.save([1, 2], tmp_path / "list.pt")
    with raises(ValueError, tmp_path / "list.pt", "tensor", "list"):
        ItemIndex.import_file(tmp_path / "list.pt")
    torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.pt")
    with raises(ValueError, tmp_path / "two.pt", "one [M, D] tensor", 2):
        ItemIndex.import_file(tmp_path / "two.pt")
    with raises(ValueError, "item_metadata", "empty"):
        ItemIndex.build({}, None)
    with raises(TypeError, "encoder", "Encoder", "'minilm'"):
        ItemIndex.build(METADATA, "minilm")
    with raises(TypeError, "encoder", "Encoder", "'minilm'"):
        index.check_encoder("minilm")


@pytest.mark.parametrize("kind", ["LFS", "HTML", "zip", "gzip", "Parquet", "pickle", "npy"])
@pytest.mark.parametrize("ending", [".safetensors", ".npy", ".pt"])
def test_a_file_of_another_kind_is_named(tmp_path, ending, kind):
    """By what it is and the remedy, never with NumPy's advice to unpickle it."""
    if (ending, kind) == (".npy", "npy"):
        pytest.skip("this is the right kind")
    path = tmp_path / f"table{ending}"
    path.write_bytes(pack(kind))
    named = KINDS[kind]
    if ending == ".pt" and kind in ("zip", "pickle"):  # torch writes these
        named = "never loaded"
    for load in (ItemIndex.import_file, ItemIndex.open)[: 1 + (ending == ".safetensors")]:
        with raises(ValueError, path, named) as caught:
            load(path)
        assert "allow_pickle" not in str(caught.value)


def test_arrays_of_objects_are_not_recommended_to_be_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1], "x"], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x02\x00\x00\x00\x01\x00" + b" " * 70_000)
    for name in ("a.npy", "b.npy"):
        with raises(ValueError, tmp_path / name, "never" if name == "a.npy" else "") as caught:
            ItemIndex.import_file(tmp_path / name)
        assert "allow_pickle" not in str(caught.value)
