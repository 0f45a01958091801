"""Prompts: what the language model reads about a user's history."""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rl4rec_kernels._utils.checks import names, shown, text, whole_number
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.item_fields import ItemMetadata, as_text
from rl4rec_kernels.data.labels import item_id

MakesPrompts = Callable[[list[int]], str]  # from a history, such as a PromptGenerator

DEFAULT_TEMPLATE = """\
A user's latest interactions, the oldest first:
{history}

Think about what the user likes and needs, and describe the item that they would like next: its \
kind, its properties and its style. Write the description, and nothing else, inside \
<query> and </query>."""

DEFAULT_MAX_HISTORY = 20
DEFAULT_FIELDS = ("title", "brand", "category", "release_year")
_RECENT_TITLES = 5


class ChatTokenizer(Protocol):
    """What a `PromptGenerator` calls of a Hugging Face tokenizer."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        /,
        *,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> object: ...


class PromptGenerator:
    """Makes prompts from histories of item ids.

    Parameters
    ----------
    item_metadata : mapping of int to mapping
        Item id to its fields, as returned by `load_item_metadata`.
    template : str
        The prompt, in `str.format` syntax. Fields: ``{history}`` (required), the items, one per
        line; ``{count}``, their number. Double literal braces.
    item_template : str, optional
        The line of one item, in `str.format` syntax. Fields: ``{position}`` (1 is the oldest item
        shown), ``{item_id}`` and every field that some item has; a field that an item lacks becomes
        `missing`. Default: the position, the title, and in parentheses the other `fields` that the
        item has: ``1. Toy Story (category: Animation; release year: 1995)``.
    fields : sequence of str, optional
        The fields in the default line. Default: those of title, brand, category and release_year
        that some item has.
    max_history : int, optional
        How many of the latest items are shown, None for all. Default: 20.
    missing : str
        What `item_template` shows for a field that an item lacks.
    system_prompt : str, optional
        The system message; without a tokenizer it is put before the prompt.
    tokenizer : object, optional
        A Hugging Face tokenizer with a chat template. If given, prompts are the messages in that
        template, ready to be continued by the assistant.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, for example if a template names a field that does not exist.
    """

    def __init__(
        self,
        item_metadata: ItemMetadata,
        *,
        template: str = DEFAULT_TEMPLATE,
        item_template: str | None = None,
        fields: Sequence[str] | None = None,
        max_history: int | None = DEFAULT_MAX_HISTORY,
        missing: str = "unknown",
        system_prompt: str | None = None,
        tokenizer: ChatTokenizer | None = None,
    ) -> None:
        check_metadata(item_metadata)
        known = list(dict.fromkeys(name for item in item_metadata.values() for name in item))
        used = _template_fields("template", template, {"history": "", "count": 1})
        if "history" not in used:
            raise ValueError("template must contain {history}, or all prompts would be the same")
        if item_template is not None:
            if fields is not None:
                raise ValueError("pass fields or item_template, not both")
            allowed = ["position", "item_id", *known]
            _template_fields("item_template", item_template, dict.fromkeys(allowed, ""))
        text("missing", missing)
        text("system_prompt", system_prompt, optional=True)
        fields = None if fields is None else names("fields", fields)
        unknown = [name for name in fields or () if name not in known]
        if unknown:
            raise ValueError(
                f"fields has {shown(unknown[0])}, but the items have {', '.join(known)}"
            )
        if tokenizer is not None and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "tokenizer has no chat_template; pass the tokenizer of an instruction-tuned model, "
                "or set tokenizer.chat_template"
            )
        if max_history is not None:
            max_history = whole_number("max_history", max_history, 1)
        self.item_metadata = item_metadata
        self.template = template
        self.item_template = item_template
        default = [name for name in DEFAULT_FIELDS if name in known]
        self.fields: tuple[str, ...] = tuple(default if fields is None else fields)
        self.max_history = max_history
        self.missing = missing
        self.system_prompt = system_prompt
        self.tokenizer = tokenizer

    def generate(self, history: Sequence[int]) -> str:
        """Return the prompt of a history of item ids, the oldest first.

        Raises
        ------
        ValueError
            If an item has no metadata.
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
        """Return the prompt of a history as chat messages: system (if any) and user.

        Raises
        ------
        ValueError
            If an item has no metadata.
        """
        rows = as_list(history)
        if rows is None:
            raise TypeError(f"history must be a list of item ids, got {shown(history)}")
        if self.max_history is not None:
            rows = rows[-self.max_history :]
        lines = [
            self._line(position, item_id("history", item)) for position, item in enumerate(rows, 1)
        ]
        # Titles are inserted, not formatted: their braces and percent signs are text.
        prompt = self.template.format(history="\n".join(lines), count=len(lines))
        messages = [{"role": "user", "content": prompt}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def _line(self, position: int, item: int) -> str:
        if item not in self.item_metadata:
            raise ValueError(f"history has item {item}, which is not in item_metadata")
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
    """An item's fields for ``str.format_map``, with `missing` for those it lacks."""

    def __init__(self, missing: str, fields: dict[str, str]) -> None:
        super().__init__((name, text) for name, text in fields.items() if text)
        self._missing = missing

    def __missing__(self, name: str) -> str:
        return self._missing


def recent_titles(item_metadata: ItemMetadata, history: Sequence[int]) -> str:
    """A text to use instead of a language model's: the user's latest titles, the newest first."""
    latest = reversed(history[-_RECENT_TITLES:])
    return "; ".join(filter(None, (as_text(item_metadata[item].get("title")) for item in latest)))


def check_metadata(item_metadata: object) -> None:
    """Raise TypeError or ValueError unless `item_metadata` maps ids from 1 to mappings."""
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
            raise TypeError(f"item_metadata[{item}] must be a dict of fields, got {shown(fields)}")


def _template_fields(name: str, template: Any, examples: dict[str, Any]) -> set[str]:
    """Return the fields of a template, after filling it with an example value of every field."""
    if not isinstance(template, str):
        raise TypeError(f"{name} must be a string, got {type(template).__name__}")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"{name} is malformed ({error}); double literal braces: {{{{ and }}}}"
        ) from error
    # A nested field ({title:{width}}) or an attribute ({title.upper}) is not a known name, and so
    # is refused here, not when the first prompt is made.
    used = {field for _, field, _, _ in parsed if field is not None}
    used |= {spec for _, _, spec, _ in parsed if spec and "{" in spec}
    unknown = sorted(used - set(examples))
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in examples)
        raise ValueError(f"{name} has an unknown field {{{unknown[0]}}}; use {known}")
    try:
        template.format_map(examples)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be filled in ({error}); every field but count is text"
        ) from error
    return used
