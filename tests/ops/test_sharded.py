"""Tables spread over real processes: the results of one process, to the bit, and no deadlocks."""

import multiprocessing
import time
from typing import Any

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels
from tests.errors import raises
from tests.ops import sharded_work
from tests.ops.catalog_cases import assert_counts
from tests.ops.sharded_work import METRICS, SPLITS, STEPS, WORK, Work

DEADLINE = 120  # seconds, after which processes that wait for each other are ended


@pytest.fixture(scope="module", params=[2, 3], ids=["2 processes", "3 processes"])
def found(request, tmp_path_factory) -> list[dict[str, Any]]:
    """What each process found."""
    world, folder = request.param, tmp_path_factory.mktemp("sharded")
    table = WORK["no exclusions"].case.table
    items = table.ne(0).any(1) & (torch.arange(len(table)) > 0)
    index = rk.ItemIndex.from_embeddings(table, valid=items)
    index.save(folder / "index.safetensors")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=sharded_work.main, args=(rank, world, folder))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and all(p.exitcode in (None, 0) for p in processes):
        if all(p.exitcode == 0 for p in processes):
            break
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    steps = [file.read_text() for file in sorted(folder.glob("step*"))]
    assert codes == [0] * world, f"exit codes {codes} (None: still running), at the steps {steps}"
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(world)]


def one_process(work: Work) -> dict[str, Any]:
    query, _, targets, exclude = work.case.arguments
    table, options = work.table, {"valid": work.case.valid, "refine": work.refine}
    return {
        "counts": rk.rank_catalog(query, table, targets, exclude, **options),
        "rewards": rk.reward_catalog(query, table, targets, exclude, METRICS, **options),
        **{f"top {k}": rk.topk_catalog(query, table, k, exclude, **options) for k in work.ks()},
    }


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    assert_counts(got["counts"], want["counts"])
    assert torch.equal(got["rewards"], rk.metrics_from_counts(want["counts"], METRICS))
    assert torch.equal(got["rewards"], want["rewards"])
    for name in want.keys() - {"counts", "rewards"}:
        assert torch.equal(got[name][0], want[name][0]), name
        assert torch.equal(got[name][1], want[name][1]), name


@pytest.mark.parametrize("name", WORK)
def test_all_processes_get_the_results_of_one(found, name):
    want = one_process(WORK[name])
    for split in SPLITS:
        for process in found:
            assert_same(process[f"{name}, {split}"], want)


def test_an_opened_index_is_shared_among_processes(found):
    case = WORK["no exclusions"].case
    valid = torch.arange(len(case.table)) > 0
    want = rk.topk_catalog(case.query, case.table, 9, valid=valid)
    for rank, process in enumerate(found):
        for copy in (None, torch.int8):
            assert torch.equal(process[f"opened {copy}"][0], want[0])
            assert torch.equal(process[f"opened {copy}"][1], want[1])
        start, end = (311 * i // len(found) for i in (rank, rank + 1))
        words = f"rows {start} to {end - 1} in process {rank} of {len(found)}"
        assert words in process["repr None"]


def test_part_of_the_processes_may_form_a_group(found):
    want = one_process(WORK["real torch.float32 torch.float32"])
    for process in (found[0], found[-1]):
        assert_same(process["in a group"], want)
    for process in found[1:-1]:
        assert process["in a group"][0] == "ValueError"
        assert "does not belong to the group" in process["in a group"][1]


# What errors name.
ERRORS = {
    "a bad target": ("IndexError", "targets", "id 9", "query 1"),
    "a bad exclusion": ("IndexError", "exclude", "id -2", "row 2", "column 0"),
    "a bad metric": ("ValueError", "unknown metric", "'ndcg'"),
    "an invalid target": ("ValueError", "targets", "id 5", "query 1", "valid[5]"),
    "k": ("ValueError", "k", 9, 10),
    "no source": ("ValueError", "refine=True", "keep_source=True"),
    "refine": ("ValueError", "refine", "True or False", "'no'"),
    "refine of rewards": ("ValueError", "refine", "True or False", "'no'"),
    "refine of the best": ("ValueError", "refine", "True or False", "'no'"),
    "nan": ("ValueError", "query", "row 0", "NaN"),
    "one bad target": ("IndexError", "targets", "id 11", "query 2"),
    "one bad k": ("ValueError", "k", "at least 1", 0),
    "one bad metric": ("ValueError", "unknown metric", "'auc@'"),
    "other query": ("ValueError", "query must be the same"),
    "other shape": ("ValueError", "query must be the same"),
    "other targets": ("ValueError", "targets must be the same"),
    "other exclusions": ("ValueError", "exclude must be the same"),
    "other k": ("ValueError", "the operator, with its k", "same"),
    "other operator": ("ValueError", "the operator, with its k", "same"),
    "other dimensions": ("ValueError", "dim", "3 in process 0", 4),
    "other dtype": ("ValueError", "dtype", "torch.float32 in process 0", "torch.float16"),
    "other source": ("ValueError", "source", "torch.float32 in process 0", "None"),
    "bad table": ("TypeError", "table", "tensor", "list"),
    "bad valid": ("ValueError", "valid", "[2]"),
    "no file": ("FileNotFoundError", "missing.safetensors"),
    "other level": ("ValueError", "RL4REC_CPU_LEVEL", cpu_levels()[0], "portable"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_one_is_raised_in_all(found, name):
    if name == "other level" and cpu_levels()[0] not in ("amx_fp16", "amx", "avx512_bf16"):
        pytest.skip("all levels of this machine score alike")
    kind, *named = ERRORS[name]
    for process in found:
        raised, message = process[f"error: {name}"]
        assert raised == kind, message
        assert [part for part in named if str(part) not in message] == [], message
    if name == "one bad target":
        innocent = found[0][f"error: {name}"][1]
        assert innocent.endswith(f"(in process {len(found) - 1} of the group)")


@pytest.mark.parametrize("kind", ["RuntimeError", "KeyboardInterrupt"])
@pytest.mark.parametrize(
    ("method", "step"), [(method, step) for method, steps in STEPS.items() for step in steps]
)
def test_a_failure_between_collectives_is_raised_in_all(found, method, step, kind):
    for rank, process in enumerate(found):
        (raised, message), results = process[f"broken: {method} {step} {kind}"]
        assert "broken" in message
        assert raised == (kind if rank == len(found) - 1 else "RuntimeError")
        assert rank == len(found) - 1 or kind == "RuntimeError" or kind in message
        assert results == (3 if method == "rank_catalog" else 2)


def test_processes_that_wait_in_vain_give_up(found):
    for process in found[:-1]:
        raised, message = process["late"]
        assert raised == "RuntimeError"
        assert "init_process_group(timeout=" in message


def test_errors_are_those_of_one_process(found):
    query, table, valid = torch.ones(3, 4), torch.ones(9, 4), torch.ones(9, dtype=torch.bool)
    valid[5] = False
    calls = {
        "a bad target": lambda: rk.rank_catalog(query, table, torch.tensor([0, 9, 1])),
        "a bad exclusion": lambda: rk.topk_catalog(query, table, 2, torch.tensor([[0], [1], [-2]])),
        "an invalid target": lambda: rk.rank_catalog(
            query, table, torch.tensor([1, 5, 8]), valid=valid
        ),
        "k": lambda: rk.topk_catalog(query, table, 10),
    }
    for name, call in calls.items():
        with pytest.raises((ValueError, IndexError)) as error:
            call()
        assert {process[f"error: {name}"][1] for process in found} == {str(error.value)}


def test_a_table_can_be_used_after_errors(found):
    for process in found:
        assert len(process["error: nothing wrong"]) == 3
        assert process["error: nothing wrong"][2].tolist() == [9, 9, 9]


def test_it_needs_a_process_group():
    with raises(RuntimeError, "torch.distributed", "init_process_group"):
        rk.ShardedTable.from_slice(torch.ones(2, 3))


def test_parts_of_an_index():
    index = rk.ItemIndex.from_embeddings(torch.randn(10, 4), ids=range(1, 11))
    parts = [index.slice(i, 3) for i in range(3)]
    assert torch.equal(torch.cat([table for table, _ in parts]), index.table)
    assert torch.equal(torch.cat([valid for _, valid in parts]), index.valid)
    with raises(ValueError, "part", "from 0 to 2", 3):
        index.slice(3, 3)
