"""Item indexes: building, and errors about bad items and embeddings."""

import pytest
import torch

from rl4rec_kernels import ItemIndex
from tests.errors import raises
from tests.index.cases import METADATA


def test_rows_are_ids(index, encoder):
    assert index.table.shape == (5, 384)
    assert index.valid.tolist() == [False, True, True, False, True]
    assert len(index) == 3
    texts = ["Red nail polish. OPI. Nails", "Shampoo. Hair", "Soap"]
    want = encoder.encode_items(texts)
    torch.testing.assert_close(index.table[[1, 2, 4]], want, rtol=0, atol=1e-6)
    assert not index.table[[0, 3]].any()


def test_equal_items_have_equal_rows(encoder):
    """They must tie, even if they are far apart in the table."""
    words = ["soap", "a much longer title of a soap", "oil"]
    metadata = {i: {"title": words[i % 3]} for i in range(1, 200)}
    table = ItemIndex.build(metadata, encoder).table
    for i in range(1, 4):
        assert (table[i::3] == table[i]).all()
        assert table[i].any()


@pytest.mark.parametrize(
    ("metadata", "options", "error", "named"),
    [
        (METADATA, {"fields": "title"}, TypeError, ("fields", "('title',)")),
        (METADATA, {"fields": ["titel"]}, ValueError, ("titel", "brand, category, title")),
        ({7: {"title": "\ud800"}}, {}, ValueError, ("item 7", "Unicode")),
        (
            METADATA,
            {"dtype": torch.float64},
            TypeError,
            ("float32, float16 or bfloat16", "float64"),
        ),
    ],
)
def test_bad_fields_and_texts_are_named(encoder, metadata, options, error, named):
    with raises(error, *named):
        ItemIndex.build(metadata, encoder, **options)


def spoiled(value: float) -> torch.Tensor:
    table = torch.ones(70_000, 2)
    table[0] = 0
    table[69_999, 1] = value
    return table


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"embeddings": [[1.0]]}, TypeError, ("embeddings", "tensor", "list")),
        (
            {"embeddings": torch.ones(2, 2).double()},
            TypeError,
            ("embeddings", "float64", ".float()"),
        ),
        (
            {"embeddings": torch.eye(2).to_sparse()},
            TypeError,
            ("embeddings", "sparse", ".to_dense()"),
        ),
        ({"embeddings": torch.ones(2, 2, device="meta")}, TypeError, ("embeddings", "meta")),
        ({"embeddings": torch.zeros(3, 2)}, ValueError, ("embeddings", "no row is an item")),
        ({"embeddings": torch.ones(2)}, ValueError, ("embeddings", "[M, D]", (2,))),
        ({"embeddings": torch.ones(0, 2)}, ValueError, ("embeddings", "[M, D]", (0, 2))),
        ({"embeddings": spoiled(torch.nan)}, ValueError, ("embeddings", "row 69999", "NaN")),
        ({"embeddings": spoiled(torch.inf)}, ValueError, ("embeddings", "row 69999", "infinity")),
        ({"embeddings": torch.ones(2, 2), "ids": [1]}, ValueError, ("ids", "[2]", (1,))),
        (
            {"embeddings": torch.ones(2, 2), "ids": [1.0, 2.0]},
            ValueError,
            ("ids", "whole numbers", "float64"),
        ),
        ({"embeddings": torch.ones(2, 2), "ids": [1, 1]}, ValueError, ("ids", "item 1 twice")),
        ({"embeddings": torch.ones(2, 2), "ids": [1, -1]}, ValueError, ("ids", "at least 0", -1)),
        (
            {"embeddings": torch.ones(2, 2), "ids": [1, 10**9]},
            ValueError,
            ("ids", 10**9, "number the items"),
        ),
        (
            {"embeddings": torch.ones(2, 2), "valid": torch.ones(2)},
            ValueError,
            ("valid", "bool [2]", "float32"),
        ),
        (
            {"embeddings": torch.ones(1, 2), "ids": [1], "valid": [True]},
            ValueError,
            ("ids", "valid", "not both"),
        ),
    ],
)
def test_bad_embeddings_are_named(arguments, error, named):
    with raises(error, *named):
        ItemIndex.from_embeddings(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"table": [[1.0]]}, TypeError, ("table", "tensor", "list")),
        ({"table": torch.ones(3)}, ValueError, ("table", "[M, D]", "(3,)")),
        ({"table": torch.ones(3, 2, dtype=torch.int64)}, TypeError, ("table", "torch.int64")),
        ({"valid": None}, ValueError, ("valid", "bool [3]", None)),
        ({"valid": torch.ones(3)}, ValueError, ("valid", "bool [3]", "torch.float32")),
        ({"valid": torch.ones(2, dtype=torch.bool)}, ValueError, ("valid", "bool [3]", "(2,)")),
        ({"origin": None}, TypeError, ("origin", "mapping", None)),
        ({"origin": {"encoder": 3}}, TypeError, ("origin", "mapping", 3)),
    ],
)
def test_bad_parts_of_an_index_are_named(changes, error, named):
    parts = {"table": torch.ones(3, 2), "valid": torch.ones(3, dtype=torch.bool), "origin": {}}
    assert len(ItemIndex(**parts)) == 3
    with raises(error, *named):
        ItemIndex(**parts | changes)
