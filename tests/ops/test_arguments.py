"""Bad arguments of the operators get an error that names them, and the value."""

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels import RaggedIds
from tests.errors import raises

QUERY, TABLE, IDS = torch.randn(2, 8), torch.randn(5, 8), torch.tensor([[0, 1], [2, 3]])
RAGGED = RaggedIds(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]))
NARROW = RAGGED._replace(offsets=torch.tensor([0, 1, 3], dtype=torch.int32))
OPERATORS = [rk.score_candidates, rk.rank_candidates, rk.reward_candidates]


def ragged_with(*offsets: int) -> RaggedIds:
    return RAGGED._replace(offsets=torch.tensor(offsets))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"query": [[1.0]]}, TypeError, ("query", "list")),
        ({"query": QUERY.double()}, TypeError, ("query", "float64", "float32", "query.float()")),
        ({"table": TABLE.int()}, TypeError, ("table", "float32", "int32")),
        ({"table": TABLE[0]}, ValueError, ("table", "matrix", (8,))),
        ({"query": QUERY.half()}, TypeError, ("query", "torch.float16", "table", "torch.float32")),
        ({"query": QUERY[:, :7]}, ValueError, ("query", 7, "table", 8)),
        ({"table": TABLE.to("meta")}, ValueError, ("query is on cpu", "table", "meta")),
        ({"candidates": [[0, 1], ["a"]]}, TypeError, ("candidates[1]",)),
        ({"candidates": [[0, 1]]}, ValueError, ("candidates", 1, 2)),
        ({"candidates": {0: [1]}}, TypeError, ("candidates", "dict")),
        ({"candidates": np.array([["a"], ["b"]])}, TypeError, ("candidates", "<U1")),
        ({"candidates": None}, TypeError, ("candidates", "NoneType")),
        ({"candidates": IDS.float()}, TypeError, ("candidates", "int32", "int64", "float32")),
        ({"candidates": IDS[:1]}, ValueError, ("candidates", "[2, C]", (1, 2))),
        ({"candidates": IDS.to("meta")}, ValueError, ("candidates is on meta",)),
        ({"candidates": ragged_with(0, 3)}, ValueError, ("candidates", "2 rows", 1)),
        ({"candidates": ragged_with(0, 1, 2)}, ValueError, ("candidates", "offsets", "end at 3")),
        ({"candidates": ragged_with(1, 1, 3)}, ValueError, ("candidates", "offsets", "start at 0")),
        ({"candidates": ragged_with(0, 4, 3)}, ValueError, ("candidates", "offsets[1]", 4)),
        ({"candidates": NARROW}, TypeError, ("candidates.offsets", "int64", "int32")),
        (
            {"candidates": torch.tensor([[0, 1], [2, 5]])},
            IndexError,
            ("candidates", "id 5", "row 1", "column 1"),
        ),
        (
            {"candidates": torch.tensor([[0, -2], [9, 5]])},
            IndexError,
            ("candidates", "id -2", "row 0", "column 1"),
        ),
        ({"candidates": torch.tensor([[2**40, 0]] * 2)}, IndexError, ("candidates", 2**40)),
        ({"backend": "gpu"}, ValueError, ("backend", "auto, cpu, cuda", "'gpu'")),
    ],
)
def test_bad_candidate_arguments_are_named(op, changes, error, named):
    arguments = {"query": QUERY, "table": TABLE, "candidates": IDS} | changes
    with raises(error, *named):
        op(**arguments)


@pytest.mark.parametrize("op", OPERATORS[1:])
def test_a_row_needs_a_target(op):
    with raises(ValueError, "candidates", "row 1", -1):
        op(QUERY, TABLE, torch.tensor([[0, -1], [-1, 2]]))
    with raises(ValueError, "candidates", "row 0", "empty"):
        op(QUERY, TABLE, ragged_with(0, 0, 3))


def test_the_first_bad_id_is_named_whatever_the_threads():
    ids = torch.zeros(64, 1000, dtype=torch.int64)
    ids[3, 700], ids[60, 1] = 77, 88
    with raises(IndexError, "id 77", "row 3", "column 700"):
        rk.rank_candidates(torch.randn(64, 8), TABLE, ids)


@pytest.mark.parametrize(
    ("metric", "named"), [("ndcg", "unknown metric"), ("ndcg@0", "k must"), ("hit@-1", "k must")]
)
def test_unknown_metrics(metric, named):
    with raises(ValueError, named, repr(metric)):
        rk.reward_candidates(QUERY, TABLE, IDS, (metric,))
    with raises(TypeError, "metrics", "sequence", "ndcg@10"):
        rk.reward_candidates(QUERY, TABLE, IDS, "ndcg@10")
    with raises(ValueError, "tie rule", "'random'"):
        rk.reward_candidates(QUERY, TABLE, IDS, ties="random")


def test_the_raw_operators_check_too():
    ops = torch.ops.rl4rec
    with raises(ValueError, "query", 7, "table", 8):
        ops.rank_candidates(QUERY[:, :7].contiguous(), TABLE, IDS, None)
    with raises(ValueError, "table", "float32"):
        ops.rank_candidates(QUERY, TABLE.double(), IDS, None)
    with raises(ValueError, "candidates", "int32 or int64"):
        ops.score_candidates(QUERY, TABLE, IDS.short(), None)
    with raises(ValueError, "metric kind", 17):
        ops.reward_candidates(QUERY, TABLE, IDS, None, [17], [1], 0)
    with raises(ValueError, "grad", "float32"):
        ops.score_candidates_grad_query(torch.ones(3), QUERY, TABLE, IDS, None)
    for op in (ops.score_candidates_grad_query, ops.score_candidates_grad_table):
        with raises(ValueError, "query", 8, "table", 7):
            op(torch.ones(2, 2), QUERY, TABLE[:, :7], IDS, None)
        with raises(ValueError, "query", "float32"):
            op(torch.ones(2, 2), QUERY.double(), TABLE, IDS, None)
        with raises(IndexError, "id 9", "row 1", "column 1"):
            op(torch.ones(2, 2), QUERY, TABLE, torch.tensor([[0, 1], [2, 9]]), None)


QUANTIZED = rk.quantize_table(torch.ones(9, 4))
INVALID = torch.tensor([True, False] + [True] * 7)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"query": torch.ones(2, 3)}, ValueError, ("query", 3, "table", 4)),
        ({"targets": [1, 0.5]}, TypeError, ("targets", "float64")),
        ({"targets": "ab"}, TypeError, ("targets", "int32 or int64", "str")),
        ({"targets": torch.ones(2)}, TypeError, ("targets", "query", "torch.float32")),
        ({"targets": torch.tensor([1, 2, 3])}, ValueError, ("targets", "[2]", (3,))),
        ({"targets": torch.tensor([1, -1])}, IndexError, ("targets", "id -1", "query 1")),
        ({"targets": torch.tensor([1, 2**32 + 1])}, IndexError, ("targets", "id 4294967297")),
        ({"exclude": [[1], [0.5]]}, TypeError, ("exclude[1]", "float64")),
        ({"exclude": RaggedIds.from_lists([[1]])}, ValueError, ("exclude", "2 rows", 1)),
        ({"exclude": RaggedIds.from_lists([[1], [9]])}, IndexError, ("exclude", "id 9", "row 1")),
        ({"exclude": RaggedIds.from_lists([[-2], []])}, IndexError, ("exclude", "id -2", "row 0")),
        ({"exclude": torch.ones(3, 1).int()}, ValueError, ("exclude", "[2, C]", (3, 1))),
        ({"valid": torch.ones(1, dtype=torch.bool)}, ValueError, ("valid", "[9]", (1,))),
        ({"valid": torch.ones(9)}, TypeError, ("valid", "bool", "torch.float32")),
        ({"valid": INVALID}, ValueError, ("targets", "id 1", "query 0", "valid[1]")),
        ({"refine": True}, TypeError, ("refine=True", "quantize_table")),
        (
            {"table": QUANTIZED._replace(source=None), "refine": True},
            ValueError,
            ("refine=True", "keep_source=True"),
        ),
        (
            {"table": QUANTIZED, "query": torch.ones(2, 4).half(), "refine": True},
            TypeError,
            ("query", "float32", "refine=True", "float16"),
        ),
        (
            {"table": QUANTIZED, "query": torch.full((2, 4), torch.nan), "refine": True},
            ValueError,
            ("query", "row 0", "NaN"),
        ),
        (
            {"table": QUANTIZED._replace(row_stats=torch.ones(9))},
            ValueError,
            ("table", "row_stats", "torch.float32", (9,)),
        ),
        ({"backend": "gpu"}, ValueError, ("backend", "'gpu'")),
    ],
)
@pytest.mark.parametrize("operator", [rk.rank_catalog, rk.reward_catalog])
def test_bad_catalog_arguments_are_named(operator, changes, error, named):
    arguments = {
        "query": torch.ones(2, 4),
        "table": torch.ones(9, 4),
        "targets": torch.tensor([1, 2]),
    } | changes
    with raises(error, *named):
        operator(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"k": 0}, ValueError, ("k", "at least 1", 0)),
        ({"k": 2.0}, TypeError, ("k", "whole number", 2.0)),
        ({"k": 10}, ValueError, ("k", 9, 10)),
        ({"exclude": torch.tensor([[1], [9]])}, IndexError, ("exclude", "id 9", "row 1")),
        ({"valid": torch.ones(3, dtype=torch.bool)}, ValueError, ("valid", "[9]", (3,))),
        ({"query": torch.ones(2, 3)}, ValueError, ("query", 3, "table", 4)),
    ],
)
def test_bad_arguments_of_topk_are_named(changes, error, named):
    arguments = {"query": torch.ones(2, 4), "table": torch.ones(9, 4), "k": 3} | changes
    with raises(error, *named):
        rk.topk_catalog(**arguments)
