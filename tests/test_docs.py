"""Every example of the READMEs and docs/: Python blocks are run, commands and links must exist.

A page's blocks run in order, in one namespace. A word after ``python`` in a fence names what a
block needs that tests do not have (``gpu``, ``cluster``, ``hub``, ``torchrun``, ``trainer``). Such
a block is only compiled, and the names that it imports, reads and passes must exist.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer

import rl4rec_kernels as rk
from rl4rec_kernels.cli.app import app
from rl4rec_kernels.service import local, prometheus
from rl4rec_kernels.service.batching import Limits
from tests.data import layout_files
from tests.errors import raises
from tests.tiny_model import tiny_chat_model

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.ko.md", ROOT / "CONTRIBUTING.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").glob("*.md"))]
HUB_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # tests have a tiny one instead
NEEDS = {"gpu", "cluster", "hub", "torchrun", "trainer"}

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the source tree")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    needs: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    if not page.is_file():
        return []
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{page.name}: a fence is not closed"
    blocks = []
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        language, _, needs = lines[start][3:].partition(" ")
        text = "\n".join(lines[start + 1 : end])
        blocks.append(Block(page, start + 2, language, needs, text))
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
ELSEWHERE = [block for block in PYTHON if block.needs]
RUNNABLE = sorted({block.page for block in PYTHON if not block.needs})


@pytest.fixture(scope="module")
def data_dir(ml100k_dir, tmp_path_factory) -> Path:
    """A few users and films of MovieLens-100k, under the name of the data set in the pages."""
    root = tmp_path_factory.mktemp("data")
    (root / "beauty").mkdir()

    def copy(kind: str, is_kept: Callable[[list[str]], bool]) -> None:
        source = ml100k_dir / "ml-100k" / f"ml-100k.{kind}"
        header, *rows = source.read_text(encoding="utf-8").splitlines()
        kept = [header, *(row for row in rows if is_kept(row.split("\t")))]
        (root / "beauty" / f"beauty.{kind}").write_text("\n".join(kept), encoding="utf-8")

    seen: Counter[str] = Counter()

    def is_early(row: list[str]) -> bool:
        user, film = row[:2]
        if int(user) > 40 or int(film) > 200:
            return False
        seen[user] += 1
        return seen[user] <= 12

    copy("inter", is_early)
    copy("item", lambda row: int(row[0]) <= 200)
    return root


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_examples_run(page, data_dir, tmp_path, monkeypatch):
    if page.name == "data.md":
        for layout in layout_files.LAYOUTS:
            layout_files.write_layout(tmp_path, layout)
    if page.name == "first-steps.md":
        for part in tiny_chat_model():
            part.save_pretrained(tmp_path / HUB_MODEL)
    monkeypatch.setenv("RL4REC_DATA", str(data_dir))
    monkeypatch.setenv("RL4REC_CACHE", str(data_dir / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "_registry", {})
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.language == "python" and not block.needs:
            # Tracebacks show the line of the page.
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("block", ELSEWHERE, ids=lambda block: block.place)
def test_examples_for_elsewhere_name_what_exists(block):
    assert block.needs in NEEDS
    tree = ast.parse(block.text)
    names: dict[str, Any] = {"rk": rk, "torch": torch}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = importlib.import_module(alias.name)
                names[alias.asname or alias.name] = module
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            names |= {
                alias.asname or alias.name: getattr(module, alias.name) for alias in node.names
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            look_up(node, names)
        elif isinstance(node, ast.Call):
            check_call(node, names)


def look_up(node: ast.AST, names: dict[str, Any]) -> Any:
    """The value of an expression such as ``rk.RecReward``; None if it is not known."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = look_up(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


def check_call(node: ast.Call, names: dict[str, Any]) -> None:
    """Assert that a function of the package has the keywords that are passed to it."""
    function = look_up(node.func, names)
    if function is None or not getattr(function, "__module__", "").startswith("rl4rec_kernels"):
        return
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = {word.arg for word in node.keywords} - set(parameters)
    assert not unknown, f"{ast.unparse(node.func)} has no argument {unknown}"


def commands() -> Iterator[tuple[str, str]]:
    """The positions and texts of all commands, in blocks without a language and in prose."""
    for block in BLOCKS:
        if block.language in ("", "sh", "bash"):
            for number, line in enumerate(block.text.splitlines(), block.line):
                if re.match(r"(rl4rec|make) ", line):
                    yield f"{block.page.name}:{number}", line
    for page in PAGES:
        if page.is_file():
            for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
                for command in re.findall(r"`((?:rl4rec|make) [^`]+)`", line):
                    yield f"{page.name}:{number}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize(("place", "command"), COMMANDS.items(), ids=list(COMMANDS))
def test_commands_exist(place, command):
    words = shlex.split(command, comments=True)
    words = words[: words.index("<")] if "<" in words else words
    check = check_make if words[0] == "make" else check_rl4rec
    check(words[1:])


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        wanted = rf"\$\({name}\)" if is_variable else rf"^{re.escape(name)}:"
        assert re.search(wanted, makefile, re.MULTILINE), f"the Makefile does not have {word}"


def check_rl4rec(words: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is not a command"
        command = command.commands[words.pop(0)]
    # Options must exist and have values; arguments may be missing, as they are in prose.
    context = command.context_class(command, info_name=command.name)
    _, left, _ = command.make_parser(context).parse_args(words)
    assert not left, f"{command.name} has no arguments {left}"


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that do not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link or (page.name == "benchmarks.md" and not name):  # it includes a page
            continue
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_each_first_step_has_at_most_ten_lines():
    steps = [block for block in PYTHON if block.page.name == "first-steps.md"]
    assert len(steps) == 4
    for block in steps:
        assert len([line for line in block.text.splitlines() if line]) <= 10, block.place


def test_the_reference_has_all_public_names():
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    documented = {*re.findall(r":: (\w+)$", text, re.MULTILINE), *rk.ops.__all__}
    assert set(rk.__all__) - documented == {"RecRewardFrunction", "__version__"}


def test_the_service_page_has_all_limits_and_metrics():
    text = (ROOT / "docs" / "service.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| [\d,.]+ \|", text, re.MULTILINE))
    assert rows == {field.name for field in dataclasses.fields(Limits)}
    metrics = {name.removesuffix("_total") for name in re.findall(r"`ray_rl4rec_(\w+)`", text)}
    assert metrics == {*prometheus._COUNTERS, *prometheus._GAUGES, "latency_ms"}


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n[a](#title) [b](#other) [c](page.md#title) [d](none.md)", "utf-8")
    assert broken_links(page) == ["#other", "none.md"]


def test_a_wrong_command_is_found():
    with raises(Exception, "No such option", "--port"):
        check_rl4rec(["serve", "beauty", "--port", "1"])
    with raises(AssertionError, "destroy is not a command"):
        check_rl4rec(["index", "destroy"])
    with raises(AssertionError, "Makefile", "everything"):
        check_make(["everything"])


def test_wrong_examples_are_found():
    def check(text: str) -> None:
        test_examples_for_elsewhere_name_what_exists(Block(ROOT, 1, "python", "gpu", text))

    check("rk.RecReward(dataset_name='x')")
    with raises(AttributeError, "Rewarder"):
        check("rk.Rewarder()")
    with raises(AssertionError, "rk.RecReward", "no argument", "data"):
        check("rk.RecReward(data='x')")
    with raises(AttributeError, "Reward"):
        check("from rl4rec_kernels.adapters.trl import Reward")
