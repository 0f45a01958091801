"""Parses PTX. Functions that a kernel calls are put in the place of the call."""

import re
from typing import NamedTuple

_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*|^\s*\.(?:loc|file)\b[^\n]*$", re.S | re.M)
_TOKEN = re.compile(r"\s*(?:([{}])|([\w$]+)\s*:(?!:)|([^;{}]*(?:\{[^{};]*\}[^;{}]*)*);)")
_FUNCTION = re.compile(
    r"\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*\(([^)]*)\)([^{;]*)([{;])", re.S
)
_SHARED = re.compile(r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*(?:\[(\d*)\])?")


def bits_of(type_name: str) -> int:
    """The bits of a type such as f32, b16x2 or pred."""
    if type_name == "pred":
        return 1
    kind = re.fullmatch(r"([a-z]+)(\d+)(?:x(\d))?", type_name)
    return int(kind[2]) * int(kind[3] or 1)


def split(text: str) -> list[str]:
    """Operands: parts between commas outside of brackets."""
    if not any(bracket in text for bracket in "[{("):
        parts = [part.strip() for part in text.split(",")]
        return parts if parts[-1] else parts[:-1]
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        if char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


class Instruction(NamedTuple):
    """`name` is the first word of the operation, `options` are the others."""

    name: str
    options: tuple[str, ...]
    operands: list[str]
    guard: str | None
    negated: bool
    text: str


class Parameter(NamedTuple):
    name: str
    size: int


class Program:
    """A kernel: registers by bits, instructions, and where labels and shared arrays are."""

    def __init__(self, text: str, name: str | None = None) -> None:
        text = _COMMENTS.sub("", text)
        found = {match[3]: match for match in _FUNCTION.finditer(text) if match[6] == "{"}
        entries = [n for n, match in found.items() if match[1] == "entry"]
        self.name = entries[0] if name is None else name
        entry = found[self.name]
        self.parameters = [_parameter(part) for part in split(entry[4])]
        self.registers: dict[str, int] = {}
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.shared: dict[str, int] = {}
        self.local: dict[str, int] = {}
        self.local_bytes = self.shared_bytes = 0
        self._text, self._functions, self._calls = text, found, 0
        self._read(entry.end(), {}, "")
        self._place_shared()
        del self._text, self._functions  # all kernels of a file, and what they call
        names = {one.name for one in self.instructions}
        self.read = self._read_registers()
        self.has_atomics = bool(names & {"atom", "red"})
        self.grain = min(map(_shared_bytes, self.instructions), default=16)
        # Warps that wait for each other by other means than one barrier of all.
        self.has_units = "mbarrier" in names or any(
            one.name in ("bar", "barrier") and "sync" in one.options and len(one.operands) == 2
            for one in self.instructions
        )

    def _read_registers(self) -> set[str]:
        """Registers that an instruction reads, and some that are only written."""
        texts = [one.guard for one in self.instructions if one.guard]
        for one in self.instructions:
            first = one.name not in ("st", "red", "bra", "wgmma")
            texts += one.operands[first:]
        return set(re.findall(r"%?[\w$@]+", " ".join(texts)))

    def _place_shared(self) -> None:
        """Arrays that several kernels share come first, then the one of the launch's size."""
        used = set(re.findall(r"[\w$]+", " ".join(one.text for one in self.instructions)))
        found = [m for m in _SHARED.finditer(self._text) if m[3] in used - set(self.shared)]
        for match in sorted(found, key=lambda match: match[4] == ""):
            align, kind, name, count = match.groups()
            self._declare(name, int(align or 1), bits_of(kind) // 8 * int(count or count != ""))

    def _declare(self, name: str, align: int, size: int) -> None:
        self.shared[name] = -(-self.shared_bytes // align) * align
        self.shared_bytes = self.shared[name] + size

    def _read(self, at: int, formal: dict[str, str], suffix: str) -> None:
        """Read a body. `formal` has the arguments of a call; `suffix` renames what is local."""
        depth = 1
        while depth:
            token = _TOKEN.match(self._text, at)
            at = token.end()
            brace, label, statement = token.groups()
            if brace:
                depth += 1 if brace == "{" else -1
            elif label:
                self.labels[label + suffix] = len(self.instructions)
            else:
                self._statement(" ".join(statement.split()), formal, suffix)
        self.labels["$end" + suffix] = len(self.instructions)

    def _statement(self, text: str, formal: dict[str, str], suffix: str) -> None:
        if text.startswith(".reg"):
            kind, names = re.match(r"\.reg\s*\.(\w+)\s+(.*)", text).groups()
            for each in split(names):
                many = re.fullmatch(r"(%?[\w$]+)<(\d+)>", each)
                new = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [each]
                self.registers.update({one + suffix: bits_of(kind) for one in new})
        elif text.startswith(".shared"):
            align, kind, name, count = _SHARED.match(text).groups()
            self._declare(name, int(align or 1), bits_of(kind) // 8 * int(count or 1))
        elif text.startswith(".local"):
            name, count = re.search(r"([\w$]+)\[(\d+)\]", text).groups()
            self.local[name] = -(-self.local_bytes // 16) * 16
            self.local_bytes = self.local[name] + int(count)
        elif text and not text.startswith("."):
            self._instruction(text, formal, suffix)

    def _instruction(self, text: str, formal: dict[str, str], suffix: str) -> None:
        guard, negated = None, False
        if text.startswith("@"):
            guard, text = text[1:].split(None, 1)
            negated, guard = guard.startswith("!"), guard.lstrip("!") + suffix
        operation, _, rest = text.partition(" ")
        name, *options = operation.split(".")
        operands = split(rest)
        if name == "call":
            return self._call(operands, suffix)
        if suffix:
            operands = [self._renamed(part, suffix) for part in operands]
            if name == "ret":
                name, operands = "bra", ["$end" + suffix]
            elif name == "bra":
                operands = [operands[0] + suffix]
        if name in ("ld", "st") and options[0] == "param":
            place = operands[name == "ld"]
            where = re.fullmatch(r"\[\s*([\w$%@]+)\s*(?:\+\s*(-?\d+))?\s*\]", place)
            own = {parameter.name for parameter in self.parameters}
            if where[1] not in own and where[1] not in self.registers:
                self._move(name, options, operands, formal.get(where[1], where[1]), where[2])
                return None
        self.instructions.append(Instruction(name, tuple(options), operands, guard, negated, text))
        return None

    def _renamed(self, operand: str, suffix: str) -> str:
        def rename(match: re.Match[str]) -> str:
            return match[0] + suffix if match[0] + suffix in self.registers else match[0]

        return re.sub(r"%?[\w$]+", rename, operand)

    def _move(
        self, name: str, options: list[str], operands: list[str], argument: str, offset: str | None
    ) -> None:
        """An argument of a call, or its result, is kept in registers."""
        kind, width = options[-1], bits_of(options[-1])
        values = split(operands[name == "st"].strip("{} "))
        for i, value in enumerate(values):
            place = f"{argument}+{int(offset or 0) + i * width // 8}"
            self.registers.setdefault(place, max(width, 16))
            pair = [place, value] if name == "st" else [value, place]
            self.instructions.append(
                Instruction("mov", (kind,), pair, None, False, f"mov.{kind} {', '.join(pair)}")
            )

    def _call(self, operands: list[str], suffix: str) -> None:
        results = split(operands[0].strip("()")) if operands[0].startswith("(") else []
        name, *arguments = operands[bool(results) :]
        arguments = split(arguments[0].strip("() ")) if arguments else []
        function = self._functions[name]
        formal = [_parameter(part).name for part in split(function[2] or "")]
        formal += [_parameter(part).name for part in split(function[4])]
        self._calls += 1
        actual = dict(zip(formal, [*results, *arguments], strict=True))
        self._read(function.end(), actual, f"@{self._calls}")


def _shared_bytes(one: Instruction) -> int:
    """The bytes of an access of a thread that may be one of shared memory, or 16."""
    if one.name == "cp" and len(one.operands) > 2 and "bulk" not in one.options:
        return int(one.operands[2], 0)
    places = {part.split("::")[0] for part in one.options}
    if one.name not in ("ld", "ldu", "st") or places & {"global", "param", "local", "const"}:
        return 16
    many = next((int(part[1]) for part in one.options if re.fullmatch(r"v\d", part)), 1)
    return min(16, many * bits_of(one.options[-1]) // 8)


def _parameter(text: str) -> Parameter:
    """A declaration such as `.param .align 8 .b8 name[24]` or `.param .u64 .ptr .global name`."""
    kind = re.search(r"\.([usbf]\d+)\b", text)[1]
    name, count = re.search(r"([\w$]+)(?:\[(\d+)\])?\s*$", text).groups()
    return Parameter(name, bits_of(kind) // 8 * int(count or 1))
