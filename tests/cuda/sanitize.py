"""Runs every CUDA kernel on small cases, for compute-sanitizer (see `make test-gpu`)."""

import torch

from rl4rec_kernels.ops import reference
from tests.cuda.emulated import built_library
from tests.ops.cases import DTYPES, make_case

SHAPES = [(3, 17, 11, 31), (5, 300, 40, 64), (2, 5, 4, 12_304)]
METRICS = [list(range(6)), [10] * 6, 3]  # every kind at 10, expected over ties


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
    torch.cuda.synchronize()
    print("all kernels ran")


if __name__ == "__main__":
    main()
