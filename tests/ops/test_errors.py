"""Bad arguments of the candidate operators get an error that names them."""

import pytest
import torch

import rl4rec_kernels as rk

QUERY, TABLE, IDS = torch.randn(2, 8), torch.randn(5, 8), torch.tensor([[0, 1], [2, 3]])
RAGGED = rk.RaggedIds(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]))
NARROW = RAGGED._replace(offsets=torch.tensor([0, 1, 3], dtype=torch.int32))
OPERATORS = [rk.score_candidates, rk.rank_candidates, rk.reward_candidates]


def ragged_with(*offsets: int) -> rk.RaggedIds:
    return RAGGED._replace(offsets=torch.tensor(offsets))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"query": [[1.0]]}, TypeError, "query must be a torch tensor"),
        ({"query": QUERY.double()}, TypeError, r"query must be float32.*query.float\(\)"),
        ({"table": TABLE.int()}, TypeError, "table must be float32"),
        ({"table": TABLE[0]}, ValueError, "table must be a matrix"),
        ({"query": QUERY.half()}, TypeError, "query is torch.float16 but table is torch.float32"),
        ({"query": QUERY[:, :7]}, ValueError, "query has 7 dimensions but table has 8"),
        ({"table": TABLE.to("meta")}, ValueError, "query is on cpu but table on meta"),
        ({"candidates": [[0, 1], [2, 3]]}, TypeError, "RaggedIds.from_lists"),
        ({"candidates": IDS.float()}, TypeError, "candidates must hold int32 or int64"),
        ({"candidates": IDS[:1]}, ValueError, r"candidates must be \[2, C\]"),
        ({"candidates": IDS.to("meta")}, ValueError, "candidates is on meta"),
        ({"candidates": ragged_with(0, 3)}, ValueError, r"offsets \[3\]"),
        ({"candidates": ragged_with(0, 1, 2)}, ValueError, "end at 3"),
        ({"candidates": ragged_with(1, 1, 3)}, ValueError, "start at 0"),
        ({"candidates": ragged_with(0, 4, 3)}, ValueError, "must not fall"),
        ({"candidates": NARROW}, TypeError, "offsets must be int64"),
        ({"candidates": torch.tensor([[0, 1], [2, 5]])}, IndexError, "id 5 in row 1, column 1"),
        ({"candidates": torch.tensor([[0, -2], [9, 5]])}, IndexError, "id -2 in row 0, column 1"),
        ({"candidates": torch.tensor([[2**40, 0]] * 2)}, IndexError, f"id {2**40}"),
        ({"backend": "gpu"}, ValueError, "backend must be one of auto, cpu, cuda"),
    ],
)
def test_the_argument_is_named(op, changes, error, words):
    arguments = {"query": QUERY, "table": TABLE, "candidates": IDS} | changes
    with pytest.raises(error, match=words):
        op(**arguments)


@pytest.mark.parametrize("op", OPERATORS[1:])
def test_a_row_needs_a_target(op):
    with pytest.raises(ValueError, match=r"row 1 starts with padding \(-1\)"):
        op(QUERY, TABLE, torch.tensor([[0, -1], [-1, 2]]))
    with pytest.raises(ValueError, match="row 0 is empty"):
        op(QUERY, TABLE, ragged_with(0, 0, 3))


def test_the_first_bad_id_is_named_whatever_the_threads():
    ids = torch.zeros(64, 1000, dtype=torch.int64)
    ids[3, 700], ids[60, 1] = 77, 88
    with pytest.raises(IndexError, match="id 77 in row 3, column 700"):
        rk.rank_candidates(torch.randn(64, 8), TABLE, ids)


@pytest.mark.parametrize(
    ("metric", "words"),
    [("ndcg", "unknown metric 'ndcg'"), ("ndcg@0", "k must be between"), ("hit@-1", "k must be")],
)
def test_unknown_metrics(metric, words):
    with pytest.raises(ValueError, match=words):
        rk.reward_candidates(QUERY, TABLE, IDS, (metric,))
    with pytest.raises(TypeError, match="sequence of names"):
        rk.reward_candidates(QUERY, TABLE, IDS, "ndcg@10")
    with pytest.raises(ValueError, match="unknown tie rule 'random'"):
        rk.reward_candidates(QUERY, TABLE, IDS, ties="random")


def test_the_raw_operators_check_too():
    ops = torch.ops.rl4rec
    with pytest.raises(ValueError, match="query has 7 dimensions, table 8"):
        ops.rank_candidates(QUERY[:, :7].contiguous(), TABLE, IDS, None)
    with pytest.raises(ValueError, match="table must be float32"):
        ops.rank_candidates(QUERY, TABLE.double(), IDS, None)
    with pytest.raises(ValueError, match="candidates must be int32 or int64"):
        ops.score_candidates(QUERY, TABLE, IDS.short(), None)
    with pytest.raises(ValueError, match="unknown metric kind 17"):
        ops.reward_candidates(QUERY, TABLE, IDS, None, [17], [1], 0)
    with pytest.raises(ValueError, match="grad must be float32"):
        ops.score_candidates_grad_query(torch.ones(3), QUERY, TABLE, IDS, None)
    for op in (ops.score_candidates_grad_query, ops.score_candidates_grad_table):
        with pytest.raises(ValueError, match="query has 8 dimensions, table 7"):
            op(torch.ones(2, 2), QUERY, TABLE[:, :7], IDS, None)
        with pytest.raises(ValueError, match="query must be float32"):
            op(torch.ones(2, 2), QUERY.double(), TABLE, IDS, None)
        with pytest.raises(IndexError, match="id 9 in row 1, column 1"):
            op(torch.ones(2, 2), QUERY, TABLE, torch.tensor([[0, 1], [2, 9]]), None)


def test_unknown_cpu_level():
    with pytest.raises(ValueError, match="level must be one of"), rk.ops.use_cpu_level("mmx"):
        pass
