"""What needs a real GPU: graphs, streams, and many blocks at once."""

import pytest
import torch

from rl4rec_kernels.ops import reference
from tests.cuda.emulated import built_library
from tests.cuda.test_kernels import METRICS, metric_arguments
from tests.ops.cases import BF16, F32, make_case
from tests.ops.catalog_cases import assert_counts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def raw():
    torch.ops.load_library(str(built_library()))
    return torch.ops.rl4rec_cuda_raw


def on_gpu(case):
    return [part if part is None else part.cuda() for part in case]


def no_bad() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("ragged", [False, True])
def test_a_captured_graph_reads_its_inputs_at_replay(raw, ragged):
    case = make_case((20, 300, 500, 64), ragged=ragged)
    query, table, ids, offsets = on_gpu(case)
    bad, arguments = no_bad(), metric_arguments(METRICS, "expected")
    raw.score_candidates(query, table, ids, offsets, bad)  # a kernel is loaded at its first launch
    raw.rank_candidates(query, table, ids, offsets, bad)
    raw.reward_candidates(query, table, ids, offsets, *arguments, bad)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = raw.score_candidates(query, table, ids, offsets, bad)
        above, tied, total = raw.rank_candidates(query, table, ids, offsets, bad)
        rewards = raw.reward_candidates(query, table, ids, offsets, *arguments, bad)
    for seed in (1, 2):
        other = make_case((20, 300, 500, 64), seed=seed)
        query.copy_(other.query)
        graph.replay()
        now = case._replace(query=other.query)
        assert torch.equal(scores.cpu(), reference.score_candidates(*now).float())
        counts = type(reference.rank_candidates(*now))(above.cpu(), tied.cpu(), total.cpu())
        assert_counts(counts, reference.rank_candidates(*now))
        assert torch.equal(
            rewards, raw.reward_candidates(query, table, ids, offsets, *arguments, bad)
        )
    assert bad.item() == 0
    ids[-1] = -7
    graph.replay()
    assert bad.item() == 1


def test_nothing_waits_for_the_gpu(raw):
    tensors = on_gpu(make_case((5, 300, 50, 64), ragged=True))
    bad = no_bad()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        raw.score_candidates(*tensors, bad)
        raw.rank_candidates(*tensors, bad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_run_on_the_current_stream(raw):
    """The kernel must wait until work that is queued on the stream has written its input."""
    case = make_case((5, 300, 50, 64))
    query, table, ids, _ = on_gpu(case)
    late = torch.zeros_like(query)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(query)
        scores = raw.score_candidates(late, table, ids, None, no_bad())
    stream.synchronize()
    assert torch.equal(scores.cpu(), reference.score_candidates(*case).float())


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, BF16)], ids=str)
def test_many_blocks_give_the_same_bits_each_time(raw, dtypes):
    case = make_case((4096, 300, 20_000, 384), dtypes, exact=False, padding=0.1)
    tensors, bad = on_gpu(case), no_bad()
    scores = raw.score_candidates(*tensors, bad)
    counts = torch.stack(raw.rank_candidates(*tensors, bad))
    for _ in range(3):
        assert torch.equal(scores, raw.score_candidates(*tensors, bad))
        assert torch.equal(counts, torch.stack(raw.rank_candidates(*tensors, bad)))
    want = reference.rank_candidates(*case, scores=scores.cpu())
    assert torch.equal(counts.cpu(), torch.stack(tuple(want)))
    assert bad.item() == 0
