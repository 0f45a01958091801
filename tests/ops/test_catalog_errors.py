"""Bad arguments of the catalog operators get an error that names them."""

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import RaggedIds

QUANTIZED = rk.quantize_table(torch.ones(9, 4))
INVALID = torch.tensor([True, False] + [True] * 7)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"query": torch.ones(2, 3)}, ValueError, "query has 3 dimensions but table has 4"),
        ({"targets": [1, 4]}, TypeError, "targets must be a tensor of int32 or int64 ids"),
        ({"targets": torch.ones(2)}, TypeError, "one for each query, got torch.float32"),
        ({"targets": torch.tensor([1, 2, 3])}, ValueError, r"targets must be \[2\]"),
        ({"targets": torch.tensor([1, -1])}, IndexError, "targets: id -1 of query 1"),
        ({"targets": torch.tensor([1, 2**32 + 1])}, IndexError, "targets: id 4294967297"),
        ({"exclude": [[1], []]}, TypeError, "exclude must be a tensor or RaggedIds, got list"),
        ({"exclude": RaggedIds.from_lists([[1]])}, ValueError, r"exclude must .* offsets \[3\]"),
        ({"exclude": RaggedIds.from_lists([[1], [9]])}, IndexError, "exclude: id 9 in row 1"),
        ({"exclude": RaggedIds.from_lists([[-2], []])}, IndexError, "exclude: id -2 in row 0"),
        ({"exclude": torch.ones(3, 1).int()}, ValueError, r"exclude must be \[2, C\]"),
        ({"valid": torch.ones(1, dtype=torch.bool)}, ValueError, r"valid must be \[9\]"),
        ({"valid": torch.ones(9)}, TypeError, "valid must be a bool tensor, got torch.float32"),
        ({"valid": INVALID}, ValueError, "targets: id 1 of query 0 is no item"),
        ({"refine": True}, TypeError, "refine=True needs a quantized table"),
        ({"table": QUANTIZED._replace(source=None), "refine": True}, ValueError, "keep_source"),
        (
            {"table": QUANTIZED, "query": torch.ones(2, 4).half(), "refine": True},
            TypeError,
            "query must be float32 with refine=True",
        ),
        (
            {"table": QUANTIZED, "query": torch.full((2, 4), torch.nan), "refine": True},
            ValueError,
            "query: row 0 holds NaN",
        ),
        (
            {"table": QUANTIZED._replace(row_stats=torch.ones(9))},
            ValueError,
            r"row_stats torch.float32 \(9,\)",
        ),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
    ],
)
@pytest.mark.parametrize("operator", [rk.rank_catalog, rk.reward_catalog])
def test_bad_arguments_are_named(operator, changes, error, words):
    arguments = {
        "query": torch.ones(2, 4),
        "table": torch.ones(9, 4),
        "targets": torch.tensor([1, 2]),
    } | changes
    with pytest.raises(error, match=words):
        operator(**arguments)


@pytest.mark.parametrize(
    ("table", "changes", "error", "words"),
    [
        ([[1.0]], {}, TypeError, "table must be a float32, float16 or bfloat16 tensor, got list"),
        (torch.ones(2, 2).int(), {}, TypeError, "got torch.int32"),
        (torch.ones(2), {}, ValueError, r"table must be \[N, D\], got \(2,\)"),
        (torch.ones(2, 2), {"dtype": torch.float16}, ValueError, "dtype must be torch.int8, "),
        (torch.tensor([[1.0], [torch.nan]]), {}, ValueError, "table: row 1 holds NaN"),
        (torch.tensor([[1.0], [torch.inf]]), {}, ValueError, "table: row 1 holds NaN"),
        (torch.tensor([[1e19], [1.0]]), {}, ValueError, "table: row 0 holds .* huge"),
    ],
)
def test_bad_tables_are_not_quantized(table, changes, error, words):
    with pytest.raises(error, match=words):
        rk.quantize_table(table, **changes)


def test_quantized_values():
    table = torch.tensor([[0.5, -1.0], [0.0, 0.0], [3.0, 1e-3]])
    values, row_stats, source = rk.quantize_table(table)
    assert values.tolist() == [[64, -127], [0, 0], [127, 0]]
    assert source is not None
    assert source.data_ptr() == table.data_ptr()
    errors = (table - values * row_stats[:, :1]).norm(dim=1)
    torch.testing.assert_close(row_stats[:, 2], errors)
    torch.testing.assert_close(row_stats[:, 1], (values * row_stats[:, :1]).norm(dim=1))
    half = rk.quantize_table(table, torch.bfloat16, keep_source=False)
    assert torch.equal(half.values, table.bfloat16())
    assert half.source is None
    assert half.row_stats[:, 0].tolist() == [1, 1, 1]
