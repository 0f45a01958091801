"""Imports run one way through the layers; CONTRIBUTING.md explains the list below."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rl4rec_kernels

ROOT = Path(rl4rec_kernels.__file__).parent

# A layer may import those before it in the list. `evaluation` is beside `service`: neither imports
# the other.
LAYERS = [
    ["_utils"],
    ["ids", "metrics"],
    ["ops"],
    ["negatives"],
    ["data"],
    ["index"],
    ["service", "evaluation"],
    ["rewards"],
    ["adapters"],
    ["cli"],
    ["__init__", "__main__"],
]
HEIGHT = {layer: height for height, entry in enumerate(LAYERS) for layer in entry}
COMPILED = ("_sampler", "_ids")  # extension modules import nothing
LAZY = ("import_module", "require", "__import__")
EXCEPTIONS = {("ops/sharded.py", "index")}  # ShardedTable.open imports ItemIndex when it is called


def module_file(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def imported(root: Path, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            module = node.module or ""
            if module.partition(".")[0] == "rl4rec_kernels":
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from ((node.lineno, n) for n in names if n.partition(".")[0] == "rl4rec_kernels")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LAZY):
            given = node.args[0] if node.args else None
            name = given.value if isinstance(given, ast.Constant) else ""
            if isinstance(name, str) and name.partition(".")[0] == "rl4rec_kernels":
                yield node.lineno, name


def wrong_way(root: Path, path: Path) -> list[str]:
    """Describe the imports of a file that the layers forbid."""
    place = path.relative_to(root)
    layer = place.parts[0].removesuffix(".py")
    found = []
    for line, name in imported(root, path):
        other = name.split(".")[1] if "." in name else "__init__"
        if other in COMPILED or (place.as_posix(), other) in EXCEPTIONS:
            continue
        other = other if other in HEIGHT else "__init__"  # `from rl4rec_kernels import RecReward`
        if HEIGHT[other] > HEIGHT[layer] or (HEIGHT[other] == HEIGHT[layer] and other != layer):
            found.append(f"{place}:{line}: {layer} imports {name}")
    return found


FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def test_every_file_belongs_to_a_layer():
    assert {name.partition("/")[0].removesuffix(".py") for name in NAMES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_run_one_way(path):
    assert wrong_way(ROOT, path) == []


def test_the_exceptions_are_in_use():
    for name, layer in EXCEPTIONS:
        assert any(n.split(".")[1] == layer for _, n in imported(ROOT, ROOT / name))


@pytest.mark.parametrize(
    "line",
    [
        "def later():\n    from rl4rec_kernels.index import ItemIndex",
        "import importlib\nimportlib.import_module('rl4rec_kernels.index')",
        "import rl4rec_kernels.index.files",
        "from rl4rec_kernels import index",
        "import rl4rec_kernels as rk",
        "from rl4rec_kernels import ItemIndex",
    ],
)
def test_an_import_of_a_higher_layer_is_found(tmp_path, line):
    for folder in ("data", "index"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    path = tmp_path / "data" / "new.py"
    path.write_text(line)
    assert len(wrong_way(tmp_path, path)) == 1


def used_modules(path: Path) -> set[Path]:
    """The modules of the package that a file imports; a package counts by its own file."""
    found = set()
    for _, name in imported(ROOT, path):
        if name.rpartition(".")[2] in COMPILED:
            continue
        used = module_file(ROOT, name) or module_file(ROOT, name.rpartition(".")[0])
        if used is not None:
            found.add(used)
    return found - {path}


def test_no_modules_import_each_other():
    graph = {path: used_modules(path) for path in FILES}
    finished: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> None:
        if path in trail:
            circle = [*trail[trail.index(path) :], path]
            pytest.fail(" imports ".join(p.relative_to(ROOT).as_posix() for p in circle))
        if path not in finished:
            for other in sorted(graph[path]):
                # ShardedTable.open, again, whose package imports ops
                if (NAMES[FILES.index(path)], other.parent.name) == ("ops/sharded.py", "index"):
                    continue
                visit(other, [*trail, path])
            finished.add(path)

    for path in FILES:
        visit(path, [])


def test_the_benchmarks_import_no_tests():
    for path in (ROOT.parent / "benchmarks").glob("*.py"):
        assert not re.search(r"^\s*(from|import) tests\b", path.read_text("utf-8"), re.MULTILINE), (
            path
        )


def test_importing_stays_light():
    heavy = ("matplotlib", "rich", "scipy", "typer", "sentence_transformers")
    code = (
        "import sys; import rl4rec_kernels; "
        f"assert not set({heavy}) & set(sys.modules), set({heavy}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
