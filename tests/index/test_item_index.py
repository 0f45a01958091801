"""Item indexes: building, saving, mapping, refusing, importing."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.memory import peak_growth
from rl4rec_kernels import Encoder, ItemIndex

METADATA = {
    1: {"title": "Red nail polish", "brand": "OPI", "category": "Nails"},
    2: {"title": "Shampoo", "category": "Hair"},
    4: {"category": "Soap"},
}


@pytest.fixture(scope="module")
def index(encoder) -> ItemIndex:
    return ItemIndex.build(METADATA, encoder)


def test_rows_are_ids(index, encoder):
    assert index.table.shape == (5, 384)
    assert index.valid.tolist() == [False, True, True, False, True]
    assert len(index) == 3
    texts = ["Red nail polish. OPI. Nails", "Shampoo. Hair", "Soap"]
    want = encoder.encode_items(texts)
    torch.testing.assert_close(index.table[[1, 2, 4]], want, rtol=0, atol=1e-6)
    assert not index.table[[0, 3]].any()


def test_equal_items_have_equal_rows(encoder):
    """However far apart they stand, so that they tie."""
    words = ["soap", "a much longer title of a soap", "oil"]
    metadata = {i: {"title": words[i % 3]} for i in range(1, 200)}
    table = ItemIndex.build(metadata, encoder).table
    for i in range(1, 4):
        assert (table[i::3] == table[i]).all()
        assert table[i].any()


@pytest.mark.parametrize(
    ("metadata", "options", "error", "words"),
    [
        (METADATA, {"fields": "title"}, TypeError, r"write \('title',\)"),
        (METADATA, {"fields": ["titel"]}, ValueError, "fields titel; there are brand, category, t"),
        ({7: {"title": "\ud800"}}, {}, ValueError, "the text of item 7 is no valid Unicode"),
        (METADATA, {"dtype": torch.float64}, TypeError, "float32, float16 or bfloat16"),
    ],
)
def test_bad_fields_and_texts_are_named(encoder, metadata, options, error, words):
    with pytest.raises(error, match=words):
        ItemIndex.build(metadata, encoder, **options)


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
    with pytest.raises(ValueError, match=r"another encoder.*build it again"):
        ItemIndex.open(path, encoder=Encoder(encoder.model, item_prefix="passage: "))
    changed = {**METADATA, 4: {"category": "Soaps"}}
    with pytest.raises(ValueError, match=r"other metadata.*build it again"):
        ItemIndex.open(path, item_metadata=changed)
    with pytest.raises(ValueError, match="other metadata"):
        ItemIndex.open(path, item_metadata={**METADATA, 5: {"title": "new"}})
    ItemIndex.open(path, item_metadata={**METADATA, 4: {"category": "Soap", "price": 3}})


def test_an_import_does_not_say_what_it_was_made_from(tmp_path, encoder):
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.ones(5, 384)).save(path)
    assert len(ItemIndex.open(path, encoder=encoder)) == 4
    with pytest.raises(ValueError, match="open it without item_metadata"):
        ItemIndex.open(path, item_metadata=METADATA)


def test_the_table_is_mapped_not_read(tmp_path):
    """Opening 300 MB must not take 300 MB of memory."""
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.ones(200_000, 384)).save(path)
    setup = "import torch, safetensors.torch; from rl4rec_kernels import ItemIndex, rank_candidates"
    work = f"""
index = ItemIndex.open({str(path)!r})
counts = rank_candidates(torch.ones(1, 384), index.table, torch.tensor([[5, 100_000, 199_999]]))
assert counts.tied.item() == 2
"""
    assert peak_growth(setup, work) < 50


def test_a_failed_save_leaves_the_old_file(tmp_path, index):
    path = tmp_path / "index.safetensors"
    index.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        ItemIndex(index.table, index.valid, {"encoder": object()}).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index.safetensors"]


def test_import_of_tensors_and_arrays(tmp_path):
    table = torch.randn(6, 8)
    table[3] = 0
    want = [False, True, True, False, True, True]  # 0 is padding, a row of zeros no item
    torch.save(table, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.asfortranarray(table.numpy()))
    torch.save({"item_embeddings": table.half(), "name": "x"}, tmp_path / "c.pt")
    for name, dtype in (("a.pt", torch.float32), ("b.npy", torch.float32), ("c.pt", torch.float16)):
        index = ItemIndex.import_file(tmp_path / name)
        assert torch.equal(index.table, table.to(dtype))
        assert index.table.is_contiguous()  # or each call would copy it
        assert index.valid.tolist() == want
    torch.save({"table": table[1:3], "ids": torch.tensor([7, 2])}, tmp_path / "d.pt")
    index = ItemIndex.import_file(tmp_path / "d.pt")
    assert torch.equal(index.table[[7, 2]], table[1:3])
    assert index.valid.nonzero().flatten().tolist() == [2, 7]
    given = ItemIndex.from_embeddings(table, valid=torch.ones(6, dtype=torch.bool))
    assert len(given) == 6


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_no_pickled_object_is_ever_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"table": Evil()}, "evil.pt")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for name in ("evil.pt", "evil.npy"):
        with pytest.raises(ValueError, match=r"never loaded|no plain array"):
            ItemIndex.import_file(name)
    assert not (tmp_path / "evil").exists()


def spoiled(value: float) -> torch.Tensor:
    table = torch.ones(70_000, 2)
    table[69_999, 1] = value
    return table


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"embeddings": [[1.0]]}, TypeError, "embeddings must be a tensor"),
        ({"embeddings": torch.ones(2, 2).double()}, TypeError, r"\.float\(\)"),
        ({"embeddings": torch.eye(2).to_sparse()}, TypeError, r"\.to_dense\(\)"),
        ({"embeddings": torch.zeros(3, 2)}, ValueError, "no row is an item"),
        ({"embeddings": torch.ones(2)}, ValueError, r"must be \[M, D\]"),
        ({"embeddings": torch.ones(0, 2)}, ValueError, r"must be \[M, D\]"),
        ({"embeddings": spoiled(torch.nan)}, ValueError, "row 69999 holds NaN"),
        ({"embeddings": spoiled(torch.inf)}, ValueError, "row 69999 holds NaN or infinity"),
        ({"embeddings": torch.ones(2, 2), "ids": [1]}, ValueError, r"ids must be \[2\]"),
        ({"embeddings": torch.ones(2, 2), "ids": [1.0, 2.0]}, ValueError, "integers"),
        ({"embeddings": torch.ones(2, 2), "ids": [1, 1]}, ValueError, "item 1 is there twice"),
        ({"embeddings": torch.ones(2, 2), "ids": [1, -1]}, ValueError, "not be negative"),
        ({"embeddings": torch.ones(2, 2), "ids": [1, 10**9]}, ValueError, "number the items"),
        ({"embeddings": torch.ones(2, 2), "valid": torch.ones(2)}, ValueError, "valid must be"),
        ({"embeddings": torch.ones(1, 2), "ids": [1], "valid": [True]}, ValueError, "not both"),
    ],
)
def test_bad_embeddings_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        ItemIndex.from_embeddings(**arguments)


def test_bad_files_are_named(tmp_path, index):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ItemIndex.open(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"must be named \*.safetensors"):
        ItemIndex.open(tmp_path / "index.pt")
    with pytest.raises(FileNotFoundError, match="make it first"):
        index.save(tmp_path / "none" / "index.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="is no item index"):
        ItemIndex.open(path)
    index.save(path)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged.*build it again"):
            ItemIndex.open(path)
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"no .npy or .pt file"):
        ItemIndex.import_file(tmp_path / "table.csv")
    for name in ("table.npy", "table.pt", "short.pt"):
        (tmp_path / name).write_bytes(b"junk" if name == "short.pt" else b"no such thing")
        with pytest.raises(ValueError, match=r"never loaded|no plain array"):
            ItemIndex.import_file(tmp_path / name)
    for kind in (">f4", [("x", "f4")]):
        np.save(tmp_path / "table.npy", np.zeros((3, 2), dtype=kind))
        with pytest.raises(ValueError, match="no plain array"):
            ItemIndex.import_file(tmp_path / "table.npy")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a tensor, got list"):
        ItemIndex.import_file(tmp_path / "list.pt")
    torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"must hold one \[M, D\] tensor, it has 2"):
        ItemIndex.import_file(tmp_path / "two.pt")
    with pytest.raises(ValueError, match="item_metadata is empty"):
        ItemIndex.build({}, None)
    with pytest.raises(TypeError, match="encoder must be an Encoder, got 'minilm'"):
        ItemIndex.build(METADATA, "minilm")
    with pytest.raises(TypeError, match="encoder must be an Encoder, got 'minilm'"):
        index.check_encoder("minilm")
