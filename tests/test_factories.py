"""New tensors of the package name their dtype and device."""

import ast
from pathlib import Path

import pytest

import rl4rec_kernels as rk

FACTORIES = (
    *("tensor", "asarray", "empty", "empty_strided", "zeros", "ones", "full", "arange", "range"),
    *("linspace", "logspace", "eye", "scalar_tensor", "rand", "randn", "randint", "randperm"),
)
ROOT = Path(rk.__file__).parents[1]


@pytest.mark.parametrize(
    "path",
    sorted(p for part in ("rl4rec_kernels", "examples") for p in (ROOT / part).rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_new_tensors_name_their_dtype_and_device(path):
    """Otherwise torch's defaults, which the caller may have set, decide."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("torch."):
            continue
        name = ast.unparse(node.func).removeprefix("torch.")
        needed = {"dtype", "device"} if name in FACTORIES else set()
        if name == "as_tensor":  # keeps the dtype of an array or a tensor
            needed = {"device"}
        given = {keyword.arg for keyword in node.keywords}
        missing = needed - given if None not in given else set()  # ** may have them
        assert not missing, f"line {node.lineno}: {ast.unparse(node)} needs {sorted(missing)}"
