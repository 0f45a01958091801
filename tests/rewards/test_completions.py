"""What is read from a completion."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels.rewards.completions import extract_query, strip_special_tokens
from tests.errors import raises
from tests.rewards.cases import HISTORIES, TARGETS, TEXTS, make


def test_special_tokens_are_removed():
    text = "<s>a <b> | c<|im_end|>\n<|endoftext|></s><eos><end_of_turn>[PAD]<\uff5cend\uff5c>"
    assert strip_special_tokens(text) == "a <b> | c\n"
    assert strip_special_tokens("<query>a < b |> c</query>") == "<query>a < b |> c</query>"


def test_chat_completions(service):
    reward = make(service, reward_type="rank")
    assert reward(np.array(TEXTS), TARGETS, HISTORIES) == reward(TEXTS, TARGETS, HISTORIES)
    chats = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": t}] for t in TEXTS]
    assert reward(chats, TARGETS, HISTORIES) == reward(TEXTS, TARGETS, HISTORIES)
    parts = [
        {"type": "text", "text": "dry "},
        {"type": "image"},
        {"type": "text", "text": "hair"},
    ]
    earlier = {"role": "assistant", "content": "let me look"}
    said = [{"type": "output_text", "text": "dry "}, "hair", {"type": "reasoning", "text": "?"}]
    contents = ((parts, "dry hair"), (np.array(said, object), "dry hair"), (None, ""), ([], ""))
    for content, text in contents:
        chat = [earlier, {"role": "assistant", "content": content}]
        assert reward([chat], [3], [[]]) == reward([text], [3], [[]])
    with raises(TypeError, "generated_texts[0]", "content", "int"):
        reward([[{"role": "assistant", "content": 7}]], [3], [[]])
    with raises(TypeError, "generated_texts[0]", "text", "string"):
        reward([[{"role": "assistant", "content": [{"type": "text"}]}]], [3], [[]])
    with raises(TypeError, "generated_texts[0]", "string", 7):
        reward([[{"role": "assistant", "content": ["dry", 7]}]], [3], [[]])
    with raises(ValueError, "generated_texts[0]", "no text", "image, reasoning"):
        reward([[{"role": "assistant", "content": [parts[1], said[2]]}]], [3], [[]])
    with raises(ValueError, "generated_texts[0]", "assistant"):
        reward([[{"role": "user", "content": "?"}]], [3], [[]])
    with raises(TypeError, "generated_texts[0]", "string or a list of chat messages", "int"):
        reward([3], [3], [[]])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("soap", "soap"),
        ("  soap\n", "soap"),
        ("<query>soap</query>", "soap"),
        ("a <QUERY>\n soap\n bar </Query> b", "soap\n bar"),
        ("I write <query> tags: <query>soap</query>.", "soap"),
        ("<query>a</query> no: <query>b</query>", "b"),
        ("<query>a</query> and <query>b", "a"),
        ("hm <query>soap", "soap"),
        ("<query>a <query>soap", "soap"),
        ("<query>a</query></query> <query", "a"),
        ("</query> soap <query> oil", "oil"),
        ("hm </query> soap", "hm </query> soap"),
        ("<query></query>", ""),
        ("", ""),
    ],
)
def test_extract_query(text, query):
    assert extract_query(text) == query


@given(st.text())
def test_extract_query_finds_what_was_wrapped(text):
    if "<query>" not in text.lower() and "</query>" not in text.lower():
        assert extract_query(f"thoughts <query>{text}</query> end") == text.strip()


@given(
    st.lists(st.sampled_from(["<query>", "</query>", "<QUERY>", "a", "\n", "İ", "<"]), max_size=9)
)
def test_extract_query_is_the_last_innermost_pair(pieces):
    text = "".join(pieces)
    pairs = re.findall(r"<query>((?:(?!</?query>).)*)</query>", text, re.DOTALL | re.IGNORECASE)
    if pairs:
        assert extract_query(text) == pairs[-1].strip()
    else:
        assert extract_query(text) == re.split("<query>", text, flags=re.I)[-1].strip()


def test_a_repeated_tag_takes_linear_time():
    """Takes milliseconds; it would take minutes if each tag searched for its end."""
    assert extract_query("<query>" * 50_000 + "soap") == "soap"
