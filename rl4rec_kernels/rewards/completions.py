"""The text of a trainer's completion that is encoded."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels._utils.arrays import SupportsArray
from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import as_list

Completion = str | Sequence[Mapping[str, object]]
"""A text, or chat messages."""
Completions = Sequence[Completion] | SupportsArray

_TEXT_PARTS = ("text", "output_text", "input_text")  # of chat messages and of OpenAI's responses

_TAG = re.compile(r"<(/?)query>", re.IGNORECASE)
# Special tokens of common models: <|im_end|>, </s>, <eos>, <end_of_turn>, [PAD] and others.
_SPECIAL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|<[|\uff5c][^<>\n]{1,40}[|\uff5c]>|</?s>"
    r"|<(?:bos|eos|pad|unk|(?:start|end)_of_(?:turn|text))>|\[(?:PAD|CLS|SEP|UNK|EOS|BOS)\]"
)


def extract_query(text: str) -> str:
    """Return the text between ``<query>`` and ``</query>`` in a completion.

    This is the last complete pair, otherwise everything after the last opening tag, otherwise the
    whole text. Tags may be in upper or lower case. White space around the query is removed.
    """
    # One pass over the tags, not "<query>.*?</query>", which takes quadratic time if a policy
    # repeats the opening tag.
    tags = list(_TAG.finditer(text))
    for opening, closing in zip(reversed(tags[:-1]), reversed(tags[1:]), strict=True):
        if closing[1] and not opening[1]:
            return text[opening.end() : closing.start()].strip()
    openings = [tag for tag in tags if not tag[1]]
    return text[openings[-1].end() if openings else 0 :].strip()


def completion_text(completion: object, row: int) -> str:
    """Return a completion that is a string, or the text of its last message by the assistant.

    A message's content can be a string, None (a tool call), which is an empty text, or a list of
    parts. Parts are strings, or mappings of type ``text``, ``output_text`` or ``input_text`` whose
    ``text`` is a string. Parts of other types, such as an image or reasoning, are left out, but
    not all parts may be such.

    Raises
    ------
    TypeError, ValueError
        If it is neither a string nor a list of messages, or has no text; the error names the row.
    """
    if isinstance(completion, str):
        return completion
    messages = as_list(completion)  # parquet makes arrays of messages
    if messages is not None and all(isinstance(m, Mapping) for m in messages):
        for message in reversed(messages):
            if message.get("role") == "assistant":
                return _content_text(message.get("content"), row)
        raise ValueError(f"generated_texts[{row}] has no message by the assistant")
    raise TypeError(
        f"generated_texts[{row}] must be a string or a list of chat messages, got "
        f"{type(completion).__name__}"
    )


def _content_text(content: Any, row: int) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = as_list(content)
    if parts is None:
        raise TypeError(
            f"generated_texts[{row}]: content must be a string or a list of parts, got "
            f"{type(content).__name__}"
        )
    texts, others = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind is not None and kind not in _TEXT_PARTS:
            others.append(str(kind))
        elif isinstance(text, str):
            texts.append(text)
        else:
            raise TypeError(
                f"generated_texts[{row}]: a part of type {kind or 'text'} must contain a string, "
                f"got {shown(part)}"
            )
    if others and not texts:
        raise ValueError(
            f"generated_texts[{row}] has no text, only parts of type {', '.join(others)}; "
            f"the types of texts are {', '.join(_TEXT_PARTS)}"
        )
    return "".join(texts)


def strip_special_tokens(text: str) -> str:
    """Remove special tokens such as ``<|im_end|>`` and ``</s>``.

    For trainers that decode with ``skip_special_tokens=False``: otherwise the encoder reads the
    tokens as words, and the rank depends on them.
    """
    return _SPECIAL.sub("", text)
