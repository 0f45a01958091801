"""Every example of README.md and docs/: Python blocks are run, commands are held against ours.

A page's blocks run in order, in one namespace. A word behind ``python`` in a fence says what a
block needs that is not here (``gpu``, ``cluster``, ``torchrun``, ``trainer``): such a block is
compiled, and what it imports, reads and passes must exist.
"""

import ast
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
from rl4rec_kernels.service import local

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"gpu", "cluster", "torchrun", "trainer"}

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
    """A few users and films of MovieLens-100k under the name that the pages use."""
    root = tmp_path_factory.mktemp("data")
    (root / "beauty").mkdir()

    def copy(kind: str, is_kept: Callable[[list[str]], bool]) -> None:
        source = ml100k_dir / "ml-100k" / f"ml-100k.{kind}"
        header, *rows = source.read_text(encoding="utf-8").splitlines()
        kept = [header, *(row for row in rows if is_kept(row.split("\t")))]
        (root / "beauty" / f"beauty.{kind}").write_text("\n".join(kept), encoding="utf-8")

    taken: Counter[str] = Counter()

    def is_early(row: list[str]) -> bool:
        user, film = row[:2]
        if int(user) > 40 or int(film) > 200:
            return False
        taken[user] += 1
        return taken[user] <= 12

    copy("inter", is_early)
    copy("item", lambda row: int(row[0]) <= 200)
    return root


def embeddings() -> dict[str, Any]:
    """What README.md takes for granted: a reader's own embeddings, ids and texts."""
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(600, 64, generator=generator), dim=1)
    targets = torch.arange(1, 9)
    negatives = torch.randint(100, 600, (8, 20), generator=generator)
    return {
        "torch": torch,
        "query": table[targets] + 0.1,
        "table": table,
        "targets": targets,
        "candidates": torch.cat([targets[:, None], negatives], dim=1),
        "negatives": negatives,
        "histories": rk.RaggedIds.from_lists([[10, 11]] * 8),
    }


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_examples_run(page, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RL4REC_DATA", str(data_dir))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "_registry", {})
    torch.manual_seed(0)
    names: dict[str, Any] = embeddings() if page.name == "README.md" else {}
    for block in blocks_of(page):
        if block.language == "python" and not block.needs:
            prepare(block, names)
            # Errors show the line of the page.
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(page), "exec"), names)


def prepare(block: Block, names: dict[str, Any]) -> None:
    """Give README.md's later examples the texts and users that they go on from."""
    if block.page.name != "README.md":
        return
    if "mine_hard_negatives" in block.text:
        names["texts"] = [sample["prompt"][-100:] for sample in names["train"]]
    if "rk.evaluate(" in block.text:
        history, *targets = list(names["items"])[:51]
        seen = [[history, target] for target in targets]
        names |= {
            "targets": torch.tensor(targets),
            "query": names["index"].table[targets],
            "histories": [[history]] * 50,
            "negatives": rk.sample_negatives(names["index"].num_rows, seen, 99),
        }


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
    """What an expression such as ``rk.RecReward`` is; None where only running it would tell."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = look_up(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


def check_call(node: ast.Call, names: dict[str, Any]) -> None:
    """Assert that a function of ours takes the keywords that are passed to it."""
    function = look_up(node.func, names)
    if function is None or not getattr(function, "__module__", "").startswith("rl4rec_kernels"):
        return
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = {word.arg for word in node.keywords} - set(parameters)
    assert not unknown, f"{ast.unparse(node.func)} does not take {unknown}"


def commands() -> Iterator[tuple[str, str]]:
    """Places and texts of our commands, in blocks without a language and in running text."""
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
        assert re.search(wanted, makefile, re.MULTILINE), f"the Makefile does not know {word}"


def check_rl4rec(words: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is no command"
        command = command.commands[words.pop(0)]
    # Options must exist and have their values; arguments may be missing, as in running text.
    context = command.context_class(command, info_name=command.name)
    _, left, _ = command.make_parser(context).parse_args(words)
    assert not left, f"{command.name} takes no more than it has: {left}"


def test_a_wrong_command_is_found():
    with pytest.raises(Exception, match="No such option"):
        check_rl4rec(["serve", "beauty", "--port", "1"])
    with pytest.raises(AssertionError, match="no command"):
        check_rl4rec(["index", "destroy"])
    with pytest.raises(AssertionError, match="does not know"):
        check_make(["everything"])


def test_wrong_examples_are_found():
    def check(text: str) -> None:
        test_examples_for_elsewhere_name_what_exists(Block(ROOT, 1, "python", "gpu", text))

    check("rk.RecReward(dataset_name='x')")
    with pytest.raises(AttributeError, match="Rewarder"):
        check("rk.Rewarder()")
    with pytest.raises(AssertionError, match="does not take"):
        check("rk.RecReward(data='x')")
    with pytest.raises(AttributeError, match="Reward"):
        check("from rl4rec_kernels.adapters.trl import Reward")
