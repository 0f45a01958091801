"""Item metadata in JSON: its forms, and errors about malformed files."""

import gzip
import json
import pickle

import pytest

from rl4rec_kernels.data import load_item_metadata
from tests.data.cases import ITEMS, SEQUENCES, write, write_tiny
from tests.errors import raises

JSON_FORMS = {
    "dict": json.dumps(ITEMS),
    "list": json.dumps([{"item_id": int(i), **m} for i, m in ITEMS.items()]),
    "list with text ids": json.dumps([{"id": i, **m} for i, m in ITEMS.items()]),
    "lines": "\n".join(json.dumps({"item_id": int(i), **m}) for i, m in ITEMS.items()) + "\n",
    "byte order mark": "\ufeff" + json.dumps(ITEMS),
}


JSON_NAMES = [
    "item_metadata.json",
    "item_metadata.jsonl",
    "meta.json",
    "metadata.json",
    "meta_Beauty.json",
    "meta.jsonl",
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", JSON_NAMES)
@pytest.mark.parametrize("form", JSON_FORMS)
def test_metadata_forms_and_names(tmp_path, form, name, packed):
    content = JSON_FORMS[form].encode()
    write(tmp_path, **{name + ".gz" * packed: gzip.compress(content) if packed else content})
    metadata = load_item_metadata("tiny", tmp_path)
    assert list(metadata) == list(range(1, 10))
    assert metadata[1] == {"title": "Soap {mild}", "brand": "Acme", "category": "Bath, Soap"}
    assert metadata[3] == {"brand": "Acme"}
    assert metadata[4] == {"title": "Comb", "price": 2.5}  # a null brand is left out
    assert metadata[5] == {"title": "Brush red"}


def test_one_item_in_a_lines_file(tmp_path):
    write(tmp_path, meta__jsonl='{"item_id": 4, "title": "T"}\n')
    assert load_item_metadata("tiny", tmp_path) == {4: {"title": "T"}}


def test_padding_item_is_left_out_with_a_warning(tmp_path, caplog):
    write_tiny(tmp_path, items={"0": {"title": "pad"}, **ITEMS})
    assert 0 not in load_item_metadata("tiny", tmp_path)
    assert "item id 0 is left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", ("not JSON",)),
        ("3", ("int",)),
        ("{}", ("no items",)),
        ("[]", ("no items",)),
        ('{"1": "soap"}', ("item '1'", "'soap'", "object")),
        ('{"one": {}}', ("item 'one'", "'one'", "whole number")),
        ('{"-1": {}}', ("item '-1'", "whole number")),
        ('{"' + "9" * 30 + '": {}}', ("item '999", "whole number")),
        ('{"1": {}, "1": {}}', ("'1'", "twice")),
        ('{"1": {}, "01": {}}', ("item '01'", "id 1,", "another item")),
        ('[{"title": "no id"}]', ("entry 1", None, "whole number")),
        ('[{"item_id": true}]', ("entry 1", True, "whole number")),
        ('[{"item_id": 1.5}]', ("entry 1", 1.5, "whole number")),
        ("[4]", ("entry 1", "'4'")),
        ('[{"id": 1}, {"id": 1}]', ("entry 2", "id 1,")),
        ('{"id": 1}\n{"id": 2', ("line 2",)),
        ('{"id": 1}\n{"id": 2, "id": 3}', ("line 2", "'id'", "twice")),
    ],
)
def test_malformed_metadata(tmp_path, content, named):
    write(tmp_path, item_metadata__json=content)
    with raises(ValueError, "item_metadata.json", *named):
        load_item_metadata("tiny", tmp_path)


def test_pickle_is_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    write(tmp_path, item_metadata__pkl=pickle.dumps(Bomb()))
    with raises(ValueError, "item_metadata.pkl", "pickle", "json.dump"):
        load_item_metadata("tiny", tmp_path)


def test_no_metadata_and_several_files(tmp_path):
    write(tmp_path, sequential_data__txt=SEQUENCES)
    with raises(FileNotFoundError, str(tmp_path / "tiny"), "item_metadata.json"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, meta_a__json="{}", meta_b__json="{}")
    with raises(ValueError, "(meta_a.json, meta_b.json)", "item_metadata.json"):
        load_item_metadata("tiny", tmp_path)
    write(tmp_path, item_metadata__json='{"1": {"title": "A"}}')  # the exact name takes precedence
    assert load_item_metadata("tiny", tmp_path) == {1: {"title": "A"}}


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[" + "9" * 5000 + "]", '{"1": {}}\n' + "[" * 100_000]
)
def test_json_that_python_cannot_parse_is_named(tmp_path, content):
    write(tmp_path, item_metadata__json=content)
    with raises(ValueError, "item_metadata.json", "write"):
        load_item_metadata("tiny", tmp_path)
