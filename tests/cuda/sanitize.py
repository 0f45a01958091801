"""Runs every GPU kernel on small cases, for compute-sanitizer (see `make test-gpu`).

With the argument `cuda` those of Triton are left out: racecheck takes the shuffles of its
reductions for races.
"""

import sys

import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import reference
from tests.cuda.emulated import built_library
from tests.ops.cases import DTYPES, make_case
from tests.ops.catalog_cases import make_catalog_case

SHAPES = [(3, 17, 11, 31), (5, 300, 40, 64), (2, 5, 4, 12_304)]
IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
METRICS = [list(range(6)), [10] * 6, 3]  # every kind at 10, expectation over ties


def main() -> None:
    torch.ops.load_library(str(built_library()))
    raw = torch.ops.rl4rec_cuda_raw
    for shape in SHAPES:
        for dtypes in DTYPES:
            for ragged in (False, True):
                case = make_case(shape, dtypes, ragged=ragged)
                tensors = [None if part is None else part.cuda() for part in case]
                bad = torch.zeros(1, dtype=torch.int32, device="cuda")
                scores = raw.score_candidates(*tensors, bad)
                assert torch.equal(scores.cpu(), reference.score_candidates(*case).float())
                above, _, _ = raw.rank_candidates(*tensors, bad)
                assert torch.equal(above.cpu(), reference.rank_candidates(*case).above)
                assert raw.reward_candidates(*tensors, *METRICS, bad).isfinite().all()
                query, table, ids, offsets = tensors
                if ragged:
                    weights = torch.ones(len(ids), device="cuda")
                    raw.weighted_segment_sum(weights, table, ids, None, offsets, query)
                assert bad.item() == 0
                ids[-1] = 1 << 40 if ids.dtype == torch.int64 else 1 << 30
                raw.rank_candidates(*tensors, bad)
                assert bad.item() == 1
                if ragged:
                    raw.score_candidates(query, table, ids, offsets + 1, bad)
                    assert bad.item() == 3
    if IS_HOPPER:
        run_hopper()
    if sys.argv[1:] != ["cuda"]:
        run_triton()
    torch.cuda.synchronize()
    print("all kernels ran")


def run_hopper() -> None:
    """Rank catalogs that need each way to read a table: by boxes, value by value, in slices."""
    for dtype in (torch.int8, torch.float8_e4m3fn):
        case = make_catalog_case((5, 3_000, 144), exact=False)
        query, targets = case.query.cuda(), case.targets.cuda()
        table = rk.quantize_table(case.table.cuda(), dtype)
        counts = rk.rank_catalog(query, table, targets, backend="cuda")
        for count, want in zip(counts, rk.rank_catalog(query, table, targets), strict=True):
            assert torch.equal(count, want), dtype
        found = rk.topk_catalog(query, table, 10, backend="cuda")
        assert torch.equal(found[1], rk.topk_catalog(query, table, 10)[1]), dtype
    for dtype in (torch.bfloat16, torch.float16):
        for shape in ((5, 300, 64), (130, 600, 13), (3, 300, 400)):
            case = make_catalog_case(shape, (dtype, dtype), exclusions=True)
            query, table, targets, exclude, offsets, valid = (part.cuda() for part in case)
            seen = rk.RaggedIds(exclude, offsets)
            counts = rk.rank_catalog(query, table, targets, seen, valid=valid, backend="cuda")
            for count, want in zip(counts, reference.rank_catalog(*case), strict=True):
                assert torch.equal(count.cpu(), want), (dtype, shape)
            found = rk.log_prob_catalog(
                query, table, targets, seen, 0.5, valid=valid, backend="cuda"
            )
            want = reference.log_prob_catalog(*case, 0.5)
            torch.testing.assert_close(found.double().cpu(), want, rtol=1e-6, atol=1e-6)


def run_triton() -> None:
    """Call every operator. 3,000 items are more than one step of topk_catalog sorts."""
    for dtypes in DTYPES:
        case = make_case((5, 300, 40, 64), dtypes)
        args = [part.cuda() for part in case[:3]]
        args[0].requires_grad_(), args[1].requires_grad_()
        rk.score_candidates(*args, backend="triton").nan_to_num(neginf=0).sum().backward()
        counts = rk.rank_candidates(*args, backend="triton")
        assert torch.equal(counts.above.cpu(), reference.rank_candidates(*case).above)
        rk.reward_candidates(*args, ("ndcg@10", "mrr", "logrank"), backend="triton")
        for num_items in (300, 3_000):
            catalog = make_catalog_case((5, num_items, 64), dtypes, exclusions=True)
            query, table, targets, exclude, offsets, valid = (part.cuda() for part in catalog)
            seen = rk.RaggedIds(exclude, offsets)
            counts = rk.rank_catalog(query, table, targets, seen, valid=valid)
            assert torch.equal(counts.above.cpu(), reference.rank_catalog(*catalog).above)
            rk.reward_catalog(query, table, targets, seen, valid=valid)
            want = reference.topk_catalog(*catalog[:2], 10, *catalog[3:])[1]
            takes_cuda = IS_HOPPER and table.dtype in (query.dtype, torch.bfloat16)
            for backend in ("triton", "cuda")[: 1 + takes_cuda]:
                found = rk.topk_catalog(query, table, 10, seen, valid=valid, backend=backend)
                assert torch.equal(found[1].cpu(), want), backend


if __name__ == "__main__":
    main()
