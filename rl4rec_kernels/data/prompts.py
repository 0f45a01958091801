"""Prompts: what the language model reads about a user's history."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.data.item_fields import as_text

DEFAULT_TEMPLATE = """\
A user's latest interactions, the oldest first:
{history}

Think about what the user likes and needs, and describe the item that they would like next: its \
kind, its properties and its style. Write the description, and nothing else, inside \
<query> and </query>."""

DEFAULT_MAX_HISTORY = 20
DEFAULT_FIELDS = ("title", "brand", "category", "release_year")


class PromptGenerator:
    """Turns a history of item ids into a prompt.

    Parameters
    ----------
    item_metadata : mapping of int to mapping
        Item id to its fields, as `load_item_metadata` returns it.
    template : str
        The prompt as a `str.format` text. Fields: ``{history}`` (required), the items one a
        line; ``{count}``, how many these are. Literal braces are doubled.
    item_template : str, optional
        The line of one item as a `str.format` text. Fields: ``{position}`` (1 is the oldest item
        shown), ``{item_id}`` and every field that some item has; what an item lacks becomes
        `missing`. Default: the position, the title, and the other `fields` that the item has in
        brackets: ``1. Toy Story (category: Animation; release year: 1995)``.
    fields : sequence of str, optional
        The fields used by the default line. Default: those of title, brand, category and
        release_year that some item has.
    max_history : int, optional
        How many of the latest items are shown; None shows all. Default 20.
    missing : str
        What `item_template` shows where an item lacks a field.
    system_prompt : str, optional
        Becomes the system message; without a tokenizer it stands before the prompt.
    tokenizer : object, optional
        A Hugging Face tokenizer with a chat template. If given, prompts are the messages in that
        template, ready to be continued by the assistant.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, for example if a template names a field that does not exist.
    """

    def __init__(
        self,
        item_metadata: Mapping[int, Mapping[str, Any]],
        *,
        template: str = DEFAULT_TEMPLATE,
        item_template: str | None = None,
        fields: Sequence[str] | None = None,
        max_history: int | None = DEFAULT_MAX_HISTORY,
        missing: str = "unknown",
        system_prompt: str | None = None,
        tokenizer: Any = None,
    ) -> None:
        check_metadata(item_metadata)
        there = list(dict.fromkeys(name for item in item_metadata.values() for name in item))
        used = _template_fields("template", template, {"history": "", "count": 1})
        if "history" not in used:
            raise ValueError("template must contain {history}, else every user has the same prompt")
        if item_template is not None:
            if fields is not None:
                raise ValueError(
                    "pass fields or item_template, not both: fields belongs to the "
                    "default line of an item"
                )
            names = ["position", "item_id", *there]
            _template_fields("item_template", item_template, dict.fromkeys(names, ""))
        for name, text in (("missing", missing), ("system_prompt", system_prompt or "")):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be a string, got {text!r}")
        if isinstance(fields, str):
            raise TypeError(f"fields must be a list of names, got the string {fields!r}")
        unknown = [name for name in fields or () if name not in there]
        if unknown:
            raise ValueError(
                f"fields names {unknown[0]!r}, which no item has; the items have {', '.join(there)}"
            )
        if tokenizer is not None and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "tokenizer has no chat_template; pass the tokenizer of an instruction-"
                "tuned model, or set tokenizer.chat_template"
            )
        if max_history is not None:
            max_history = whole_number("max_history", max_history, 1)
        self.item_metadata = item_metadata
        self.template = template
        self.item_template = item_template
        default = [name for name in DEFAULT_FIELDS if name in there]
        self.fields = tuple(default if fields is None else fields)
        self.max_history = max_history
        self.missing = missing
        self.system_prompt = system_prompt
        self.tokenizer = tokenizer

    def generate(self, history: Sequence[int]) -> str:
        """Return the prompt of a history of item ids, the oldest first.

        Raises
        ------
        ValueError
            If the metadata does not have one of the items.
        """
        if self.tokenizer is not None:
            prompt = self.tokenizer.apply_chat_template(
                self.messages(history), add_generation_prompt=True, tokenize=False
            )
            return str(prompt)
        return "\n\n".join(message["content"] for message in self.messages(history))

    __call__ = generate
    generate_prompt = generate

    def messages(self, history: Sequence[int]) -> list[dict[str, str]]:
        """Return the prompt of a history as chat messages: system (if there is one) and user.

        Raises
        ------
        ValueError
            If the metadata does not have one of the items.
        """
        shown = list(history)
        if self.max_history is not None:
            shown = shown[-self.max_history :]
        lines = [self._line(position, int(item)) for position, item in enumerate(shown, 1)]
        # One pass of format: braces and percent signs inside a title are text, not fields.
        prompt = self.template.format(history="\n".join(lines), count=len(lines))
        messages = [{"role": "user", "content": prompt}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def _line(self, position: int, item: int) -> str:
        if item not in self.item_metadata:
            raise ValueError(f"history holds item {item}, which item_metadata does not have")
        metadata = self.item_metadata[item]
        if self.item_template is not None:
            values = _Fields(self.missing, {name: as_text(v) for name, v in metadata.items()})
            values.update(position=str(position), item_id=str(item))
            return self.item_template.format_map(values)
        texts = {name: as_text(metadata.get(name)) for name in self.fields}
        title = texts.pop("title", "") or "Untitled item"
        others = [f"{name.replace('_', ' ')}: {text}" for name, text in texts.items() if text]
        return f"{position}. {title}" + (f" ({'; '.join(others)})" if others else "")


class _Fields(dict[str, str]):
    """An item's fields for ``str.format_map``; `missing` stands for those it lacks."""

    def __init__(self, missing: str, fields: dict[str, str]) -> None:
        super().__init__((name, text) for name, text in fields.items() if text)
        self._missing = missing

    def __missing__(self, name: str) -> str:
        return self._missing


def check_metadata(item_metadata: Any) -> None:
    """Check that `item_metadata` maps whole numbers to mappings.

    Raises
    ------
    TypeError
        If it does not.
    ValueError
        If it is empty or has an id below 1.
    """
    if not isinstance(item_metadata, Mapping):
        raise TypeError(
            f"item_metadata must be a dict, got {type(item_metadata).__name__}; "
            "pass load_item_metadata(name)"
        )
    if not item_metadata:
        raise ValueError("item_metadata is empty; pass load_item_metadata(name)")
    for item, fields in item_metadata.items():
        whole_number("every key of item_metadata (an item id, 0 is padding)", item, 1)
        if not isinstance(fields, Mapping):
            raise TypeError(f"item_metadata[{item}] must be a dict of fields, got {fields!r}")


def _template_fields(what: str, template: Any, known: dict[str, Any]) -> set[str]:
    """Return the fields that a template names, or say which of them does not exist.

    `known` has an example of every field's value, by which the format of a field is tried.
    """
    if not isinstance(template, str):
        raise TypeError(f"{what} must be a string, got {type(template).__name__}")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"{what} is malformed ({error}); double braces that are text: {{{{ and }}}}"
        ) from error
    # Values are strings; a nested field ({title:{width}}) or an attribute ({title.upper}) is none
    # of the known names and so refused here, not when the first prompt is made.
    used = {name for _, name, _, _ in parsed if name is not None}
    used |= {spec for _, _, spec, _ in parsed if spec and "{" in spec}
    unknown = sorted(used - set(known))
    if unknown:
        raise ValueError(
            f"{what} names the field {{{unknown[0]}}}, which does not exist; "
            f"known are {', '.join(f'{{{name}}}' for name in known)}"
        )
    try:
        template.format_map(known)
    except ValueError as error:
        raise ValueError(
            f"{what} cannot be filled in ({error}); every field but count is text"
        ) from error
    return used
