"""Low-precision copies of tables."""

import pytest
import torch

import rl4rec_kernels as rk
from tests.errors import raises
from tests.ops.cases import BF16


@pytest.mark.parametrize(
    ("table", "changes", "error", "named"),
    [
        ([[1.0]], {}, TypeError, ("table", "float32, float16 or bfloat16", "list")),
        (torch.ones(2, 2).int(), {}, TypeError, ("table", "torch.int32")),
        (torch.ones(2), {}, ValueError, ("table", "[N, D]", (2,))),
        (
            torch.ones(2, 2),
            {"dtype": torch.float16},
            ValueError,
            ("dtype", "torch.int8", "torch.float16"),
        ),
        (torch.tensor([[1.0], [torch.nan]]), {}, ValueError, ("table", "row 1", "NaN")),
        (torch.tensor([[1.0], [torch.inf]]), {}, ValueError, ("table", "row 1", "inf")),
        (torch.tensor([[1e19], [1.0]]), {}, ValueError, ("table", "row 0", "huge")),
    ],
)
def test_bad_tables_are_not_quantized(table, changes, error, named):
    with raises(error, *named):
        rk.quantize_table(table, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"values": [[1]]}, TypeError, ("table.values", "tensor", "[[1]]")),
        ({"row_stats": None}, TypeError, ("table.row_stats", "tensor", None)),
        ({"source": 5}, TypeError, ("table.source", "tensor", 5)),
        ({"values": torch.ones(3, dtype=torch.int8)}, ValueError, ("values", "(3,)")),
        ({"values": torch.tensor(1, dtype=torch.int8)}, ValueError, ("values", "()")),
        ({"values": torch.ones(3, 2)}, ValueError, ("values", "torch.float32")),
        ({"row_stats": torch.ones(3, 2)}, ValueError, ("row_stats", "(3, 2)")),
    ],
)
def test_bad_parts_of_a_copy_are_named(changes, error, named):
    copy = rk.quantize_table(torch.ones(3, 2))._replace(**changes)
    with raises(error, *named):
        rk.topk_catalog(torch.ones(1, 2), rk.QuantizedTable(*copy), 1)


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


def test_most_comparisons_are_decided_by_the_quantized_scores():
    """A bound that is too wide would be exact as well, and useless."""
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(n, 384, generator=generator) for n in (4, 5000))
    scores = query @ table.T
    for copy, share in ((BF16, 0.1), (torch.int8, 0.6)):
        quantized = rk.quantize_table(table, copy)
        scale, norm, error = quantized.row_stats.unbind(1)
        if copy is torch.int8:
            torch.testing.assert_close(scale, table.abs().amax(1) / 127)
        assert (error / norm).max() < (0.0025 if copy is BF16 else 0.015)
        bound = 2 * query.norm(dim=1, keepdim=True) * error.max()
        assert (bound < share * scores.std()).all()
