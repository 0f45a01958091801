"""weighted_segment_sum in CUDA, and how late writes and copies do not matter."""

import itertools

import pytest
import torch

from tests.cuda.test_kernels import METRICS, TIES, metric_arguments
from tests.errors import raises
from tests.gpu.cases import some
from tests.gpu.emulator import Mode
from tests.ops.cases import ALL, BF16, F32, Case, label, make_case


def test_the_order_of_blocks_and_of_writes_does_not_matter(emulated):
    """A missing fence, or a sum without a fixed order, fails here; blocks are in random order."""
    bad = torch.zeros(1, dtype=torch.int32)
    for ragged in (False, True):
        case = make_case((3, 300, 50, 40), ragged=ragged, exact=False)
        weights, (index, segments) = torch.randn(case.ids.numel()), segments_of(case)
        results = []
        for late in (True, False):
            with emulated.mode(Mode(late, late, late)):
                results.append(
                    [
                        emulated.raw.score_candidates(*case, bad),
                        *emulated.raw.rank_candidates(*case, bad),
                        emulated.raw.reward_candidates(
                            *case, *metric_arguments(METRICS, TIES[0]), bad
                        ),
                        emulated.raw.weighted_segment_sum(
                            weights, case.table, index, None, segments, case.query
                        ),
                    ]
                )
        for first, second in zip(*results, strict=True):
            assert torch.equal(first, second)


def segments_of(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """All ids as a list, and where those of each query begin."""
    if case.offsets is not None:
        return case.ids, case.offsets
    rows, columns = case.ids.shape
    return case.ids.reshape(-1), torch.arange(rows + 1) * columns


@pytest.mark.parametrize("spec", some(ALL[::2], 7, 16), ids=label)
def test_weighted_sums_by_row_and_by_item(kernels, spec):
    case = make_case(**spec)
    index, segments = segments_of(case)
    weights = torch.randint(-3, 4, (index.numel(),), generator=torch.Generator().manual_seed(1))

    def run(rows, index, order, offsets, like):
        tensors = [weights.float(), rows, index, order, offsets, like]
        moved = [part if part is None else part.to(kernels.device) for part in tensors]
        return kernels.raw.weighted_segment_sum(*moved).cpu()

    # By query: the gradient of the queries.
    items = index.long().clamp(min=0)
    terms = torch.where(index[:, None] >= 0, weights[:, None] * case.table[items].double(), 0)
    row = torch.repeat_interleave(torch.arange(len(case.query)), segments.diff())
    want = torch.zeros(case.query.shape, dtype=torch.float64).index_add(0, row, terms)
    got = run(case.table, index, None, segments, case.query)
    assert torch.equal(got, want.to(case.query.dtype))

    # By item: the gradient of the table, over sorted ids. Padding comes first and is left out.
    order = index.argsort(stable=True)
    bounds = torch.searchsorted(index[order].long(), torch.arange(len(case.table) + 1))
    terms = torch.where(index[:, None] >= 0, weights[:, None] * case.query[row].double(), 0)
    want = torch.zeros(case.table.shape, dtype=torch.float64).index_add(0, items, terms)
    got = run(case.query, row, order, bounds, case.table)
    assert torch.equal(got, want.to(case.table.dtype))


def test_weighted_sums_of_real_numbers(kernels):
    """A segment longer than a block takes at once, and the same terms summed twice."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(70, 130, generator=generator)
    index = torch.randint(-1, 70, (1000,), generator=generator)
    weights = torch.randn(1000, generator=generator)
    offsets = torch.tensor([0, 0, 900, 1000, 1000])
    arguments = [weights, rows, index, None, offsets, torch.empty(4, 130)]
    moved = [part if part is None else part.to(kernels.device) for part in arguments]
    got = kernels.raw.weighted_segment_sum(*moved).cpu()
    terms = torch.where(index[:, None] >= 0, weights[:, None].double() * rows[index].double(), 0)
    want = torch.stack([terms[a:b].sum(0) for a, b in itertools.pairwise(offsets)])
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    moved[4] = torch.tensor([0, 0, 900, 900, 1000], device=kernels.device)
    other = kernels.raw.weighted_segment_sum(*moved).cpu()
    assert torch.equal(got[1], other[1])  # independent of the other segments
    assert torch.equal(got[2], other[3])


@pytest.mark.parametrize(("dtype", "dim"), [(F32, 12), (BF16, 13)], ids=str)
def test_many_short_segments_among_long_ones(kernels, dtype, dim):
    """A block has several, and a warp reads the terms of more than one of them at once."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 4, (1030,), generator=generator)
    lengths[[1, 8, 9, 500, 1029]] = torch.tensor([32, 33, 300, 31, 129])
    rows = torch.randint(-2, 3, (50, dim), generator=generator).to(dtype)
    index = torch.randint(-1, 52, (int(lengths.sum()),), generator=generator)
    weights = torch.randint(-3, 4, index.shape, generator=generator).float()
    order = torch.randperm(len(index), generator=generator)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    like = torch.empty(len(lengths), dim, dtype=dtype)
    arguments = [weights, rows, index, order, offsets, like]
    got = kernels.raw.weighted_segment_sum(*(part.to(kernels.device) for part in arguments)).cpu()
    terms = weights[:, None].double() * rows[index.clamp(0, 49)].double()
    terms = terms.masked_fill((index < 0)[:, None] | (index > 49)[:, None], 0)[order]
    segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    want = torch.zeros(len(lengths), dim, dtype=torch.float64).index_add(0, segment, terms)
    assert torch.equal(got, want.to(dtype))


def test_weighted_sums_check_their_arguments(kernels):
    good = {
        "weights": torch.ones(3),
        "rows": torch.ones(5, 8),
        "index": torch.tensor([0, -1, 7]),
        "order": None,
        "offsets": torch.tensor([-4, 2, 1 << 40]),
        "like": torch.ones(2, 8),
    }

    def run(**changes):
        tensors = (good | changes).values()
        moved = [part if part is None else part.to(kernels.device) for part in tensors]
        return kernels.raw.weighted_segment_sum(*moved).cpu()

    # Terms that are out of bounds are left out, never read.
    assert torch.equal(run(), torch.tensor([[1.0], [0.0]]).expand(2, 8))
    assert torch.equal(run(order=torch.tensor([5, 0, -1])), run())
    for changes, *named in (
        ({"weights": torch.ones(3).double()}, "weights", "float32"),
        ({"index": torch.tensor([0, 1])}, "weights", 3, "index", 2),
        ({"index": torch.ones(3)}, "index", "int32 or int64"),
        ({"rows": torch.ones(5)}, "rows", "2 dimensions"),
        ({"offsets": torch.ones(3)}, "offsets", "int64"),
        ({"order": torch.ones(3)}, "order", "int64"),
        ({"like": torch.ones(2, 7)}, "like", "[2, 8]"),
        ({"like": torch.ones(2, 8).double()}, "like", "float32"),
    ):
        with raises(ValueError, *named):
            run(**changes)
