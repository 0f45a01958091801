"""Time the four programs of docs/first-steps.md, each from a new virtual environment.

    python -m benchmarks.first_steps                    # all, with the data of $RL4REC_DATA
    python -m benchmarks.first_steps --only Train --model path/to/model

For each, the commands of the page are run in a copy of the checkout, with the torch of
constraints.txt, and then its program.
`--model` is a local model under the name of the page's; else it is downloaded. Prints seconds, and
those of the processors, which depend less on what else the machine does.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


def steps_of(page: str) -> Iterator[tuple[str, list[str], str]]:
    """The title, the commands and the program of each section."""
    first, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    shared = re.findall(r"^```\n(.*?)^```", first, re.MULTILINE | re.DOTALL)
    for section in sections:
        commands = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        [program] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        yield section.partition("\n")[0], shared + commands, program


def processor_seconds() -> float:
    """The seconds of processors that ended children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def shell(commands: str, folder: Path) -> tuple[float, float]:
    """Run commands in a shell without the caller's environment of Python; return both times."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables["RL4REC_CACHE"] = str(folder / "cache")
    variables["PIP_CONSTRAINT"] = str(folder / "constraints.txt")
    start, used = time.monotonic(), processor_seconds()
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{commands}\nfailed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.monotonic() - start, processor_seconds() - used


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the sections, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="the beginning of a section's title")
    parser.add_argument("--model", type=Path, help="the folder of a model, instead of a download")
    options = parser.parse_args(arguments)
    print("| | torch | package | program | total | processors |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    page = (ROOT / "docs" / "first-steps.md").read_text(encoding="utf-8")
    for title, commands, program in steps_of(page):
        if not title.startswith(options.only):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "checkout"
            ignored = shutil.ignore_patterns(".git", ".venv", ".cache", "build", "*.so", "*_cache")
            shutil.copytree(ROOT, folder, ignore=ignored)
            shutil.rmtree(folder / "tests")
            model = folder / "work" / MODEL
            model.parent.mkdir(parents=True)
            if options.model:
                model.symlink_to(options.model.resolve(strict=True))
            (folder / "work" / "program.py").write_text(program, encoding="utf-8")
            base, install = commands
            activate = ". .venv/bin/activate\n"
            parts = [
                shell(base, folder),
                shell(activate + install, folder),
                shell(f"{activate}cd work && python program.py", folder),
            ]
        seconds = [f"{wall:.0f} s" for wall, _ in parts]
        total, used = (sum(column) for column in zip(*parts, strict=True))
        print(f"| {title} | {' | '.join(seconds)} | {total:.0f} s | {used:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
