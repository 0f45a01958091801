"""The ids of users and items as a data set's own file has them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral

from rl4rec_kernels.data.files import is_whole_number

Tokens = Sequence[str] | Mapping[int, str]


class RawIds:
    """Turns ids into those that the file has, and back.

    Only names and numbers that cannot be rows of a table have other ids here: see
    `rl4rec_kernels.data.atomic`. A number of the file is an int, anything else is a str.

    Parameters
    ----------
    tokens : sequence or mapping of int to str, optional
        The file's text of each id. Default: ids are those of the file.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        if tokens is not None:
            pairs = tokens.items() if isinstance(tokens, Mapping) else enumerate(tokens)
            tokens = {item: token for item, token in pairs if token}  # "" is padding
            if all(str(item) == token for item, token in tokens.items()):
                tokens = None
        self._tokens = tokens

    @property
    def has_names(self) -> bool:
        """Whether the file has other ids."""
        return self._tokens is not None

    def of(self, ids: Iterable[int]) -> list[int | str]:
        """Return the file's own ids."""
        if self._tokens is None:
            return list(ids)
        return [read_token(self._tokens[item]) for item in ids]

    def of_target(self, target: int | list[int]) -> int | str | list[int | str]:
        """Return the file's own ids of the target or targets of a sample."""
        return self.of(target) if isinstance(target, list) else self.of([target])[0]

    def find(self, raw: int | str) -> int | None:
        """Return the id of one of the file's own ids, or None if the file does not have it."""
        if self._tokens is None:
            return int(raw) if isinstance(raw, Integral) and not isinstance(raw, bool) else None
        return self._ids.get(str(raw))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: item for item, token in (self._tokens or {}).items()}


def token_of(tokens: Tokens | None, item: int) -> str:
    """Return the file's text of an id; None as tokens means that ids are those of the file."""
    return str(item) if tokens is None else tokens[item]


def is_number_token(token: str) -> bool:
    """Whether a token is a whole number in its shortest form, not ``007``."""
    return is_whole_number(token) and (token[0] != "0" or token == "0")


def read_token(token: str) -> int | str:
    """Return a number as an int, and any other token as it is."""
    return int(token) if is_number_token(token) else token
