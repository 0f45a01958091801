"""From a trainer's completion to the text that is encoded."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_TAG = re.compile(r"<(/?)query>", re.IGNORECASE)
# What tokenizers of common models add: <|im_end|>, </s>, <eos>, <end_of_turn>, [PAD] and others.
_SPECIAL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|<[|\uff5c][^<>\n]{1,40}[|\uff5c]>|</?s>"
    r"|<(?:bos|eos|pad|unk|(?:start|end)_of_(?:turn|text))>|\[(?:PAD|CLS|SEP|UNK|EOS|BOS)\]"
)


def extract_query(text: str) -> str:
    """Return what a completion says between ``<query>`` and ``</query>``.

    The last complete pair counts; else all that follows the last opening tag; else the whole text.
    Tags may be in any case; white space around the query is removed.
    """
    # One pass over the tags, not "<query>.*?</query>": a policy stuck on repeating the opening tag
    # would make that quadratic.
    tags = list(_TAG.finditer(text))
    for opening, closing in zip(reversed(tags[:-1]), reversed(tags[1:]), strict=True):
        if closing[1] and not opening[1]:
            return text[opening.end() : closing.start()].strip()
    openings = [tag for tag in tags if not tag[1]]
    return text[openings[-1].end() if openings else 0 :].strip()


def completion_text(completion: Any, row: int) -> str:
    """Return the text of a completion: itself, or of its last message by the assistant.

    A message's content may be a string, a list of parts (``{"type": "text", "text": …}``; others
    are left out), or None (a call of a tool), which is an empty text.

    Raises
    ------
    TypeError, ValueError
        If it is neither a string nor a list of messages; the message names the row.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and all(isinstance(m, Mapping) for m in completion):
        for message in reversed(completion):
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
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"generated_texts[{row}]: a part of type text must have a string as text"
            )
        return "".join(texts)
    raise TypeError(
        f"generated_texts[{row}]: a message's content must be a string or a list of "
        f"parts, got {type(content).__name__}"
    )


def strip_special_tokens(text: str) -> str:
    """Remove what a tokenizer decodes its special tokens to, such as ``<|im_end|>`` and ``</s>``.

    For trainers that decode with ``skip_special_tokens=False``: the encoder would read the tokens
    as words, and the rank would depend on them.
    """
    return _SPECIAL.sub("", text)
