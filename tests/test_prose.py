"""Docstrings, comments, messages and pages are in plain English; CONTRIBUTING.md has the rules.

These phrases were typical of a text that reads as translated. The list is short on purpose: it
keeps them from coming back, and does not replace a reader.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("rl4rec_kernels", "csrc", "docs", "tests", "benchmarks", "examples", ".github")
SUFFIXES = {".py", ".pyi", ".cpp", ".h", ".cu", ".cuh", ".md", ".yml", ".sh"}
EXEMPT = {"tests/test_prose.py", "CONTRIBUTING.md"}  # they quote the phrases

PER = "batch|block|call|file|group|kernel|lane|line|operator|query|row|run|second|session|text|user"
PLAIN = {
    r"(?<!there )(is|are|was|were) no(?! (longer|more|less|better|worse)\b)": "is not a, are not",
    r"(stand|stands|stood)": "is, are",
    r"(lie|lies|lay) (beside|on|where)": "is, are",
    r"(meet|meets|met)": "is compared with, gets, reaches",
    r"(hear|hears|heard)": "handles, takes effect",
    r"to be had": "available",
    r"(mend|mends|mended)": "fix",
    r"of (one's|its|their|your) own[.,:;]": "its own, a separate",
    r"one (?!(and|as|at|by|for|from|has|in|is|of|or|that|to|was|with)\b)\w+ an? \w+": "one per …",
    rf"(bits|calls|items|ms|negatives|rows|samples|seconds|texts|times) an? ({PER})": "… per …",
    r"(does|do) not fit(?! (in|into|on)\b)": "is invalid",
    r"go(es)? round": "cycle",
}


def words_of(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Join all words by single spaces; also return where each line starts, and its number.

    Phrases may continue on the next line, of a comment or of a message in several strings.
    """
    words: list[str] = []
    starts = []
    length = 0
    for number, line in enumerate(text.splitlines(), 1):
        starts.append((length, number))
        for word in line.split():
            if word := word.strip("\"'#/*"):
                words.append(word)
                length += len(word) + 1
    return " ".join(words), starts


def phrases_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the phrase and what to write instead."""
    joined, starts = words_of(text)
    for phrase, instead in PLAIN.items():
        for found in re.finditer(rf"(?<![\w-]){phrase}(?![\w-])", joined, re.IGNORECASE):
            line = max(number for start, number in starts if start <= found.start())
            yield line, found[0], instead


def prose() -> list[Path]:
    pages = [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".cff")]
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    named = [ROOT / "Makefile", ROOT / "CMakeLists.txt", ROOT / ".ci" / "run", ROOT / "setup.py"]
    return sorted(
        path
        for path in {*pages, *named, *(path for path in files if path.suffix in SUFFIXES)}
        if path.is_file() and path.relative_to(ROOT).as_posix() not in EXEMPT
    )


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the source tree")
def test_prose_is_plain():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}; write: {instead}"
        for path in prose()
        for line, phrase, instead in phrases_in(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("k is no number", 1),
        ("\n# ids that are\n# no items", 2),
        ("One file an operator.", 1),
        ("three texts a call", 1),
        ('raise ValueError(\n    "k is "\n    "no number"\n)', 2),
        ("it stands there", 1),
        ("if there is no longer one call per user, or there\n# is no user: a stand-in", None),
    ],
)
def test_phrases_are_found(text, line):
    assert [found[0] for found in phrases_in(text)] == ([] if line is None else [line])
