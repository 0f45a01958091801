"""Every CPU operator and the sampler on many threads, under ThreadSanitizer.

`make sanitize` runs it. It compares results, as the other tests do. If a race does not change them,
the sanitizer reports it and exits with an error.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import rl4rec_kernels as rk
from tests.errors import raises

THREADS = 4
METRICS = ("ndcg@10", "mrr", "logrank")


def operators(level: str) -> None:
    """All operators, with enough work for several threads each."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(-2, 3, (150, 40), generator=generator).float()
    table = torch.randint(-2, 3, (3001, 40), generator=generator).float()
    candidates = torch.randint(-1, 3001, (150, 90), generator=generator)
    targets = candidates[:, 0] = torch.randint(3001, (150,), generator=generator)
    lists = [[i for i in row if i >= 0] for row in candidates[:, 1:].tolist()]
    copy = rk.quantize_table(table, torch.int8)
    with rk.ops.use_cpu_level(level):
        got = rk.rank_candidates(query, table, candidates)
        want = rk.rank_candidates(query, table, candidates, backend="reference")
        assert all(map(torch.equal, got, want))
        rewards = rk.reward_candidates(query, table, candidates, METRICS)
        assert torch.equal(rk.metrics_from_counts(got, METRICS), rewards)
        leaves = query.clone().requires_grad_(), table.clone().requires_grad_()
        rk.score_candidates(*leaves, candidates.clamp(min=0)).sum().backward()
        rk.log_prob_candidates(*leaves, candidates).sum().backward()
        for exclude in (None, candidates, rk.RaggedIds.from_lists(lists)):
            rk.log_prob_catalog(*leaves, targets, exclude).sum().backward()
        both = torch.stack([targets, (targets + 1) % 3001], 1).tolist()
        for items, refine in ((table, False), (table.bfloat16(), False), (copy, True)):
            for exclude in (None, candidates, rk.RaggedIds.from_lists(lists)):
                got = rk.rank_catalog(query, items, targets, exclude, refine=refine)
                if items is not table and not refine:
                    continue
                want = rk.rank_catalog(query, table, targets, exclude, backend="reference")
                assert all(map(torch.equal, got, want))
                rk.reward_catalog(query, items, targets, exclude, METRICS, refine=refine)
                got = rk.rank_catalog(query, items, both, exclude, refine=refine)
                want = rk.rank_catalog(query, table, both, exclude, backend="reference")
                assert all(map(torch.equal, got, want))
                rk.reward_catalog(query, items, both, exclude, METRICS, refine=refine)
                for k in (3, 1000):
                    scores, _ = rk.topk_catalog(query, items, k, exclude, refine=refine)
                    assert (scores[:, :-1] >= scores[:, 1:]).all()


def errors() -> None:
    """Several threads find bad ids; the error names the first one."""
    targets = torch.full((300,), 3)
    candidates = torch.full((300, 50), 99)
    candidates[7, 3:] = 100
    for call in (
        lambda: rk.rank_candidates(torch.ones(300, 8), torch.ones(100, 8), candidates),
        lambda: rk.rank_catalog(torch.ones(300, 8), torch.ones(100, 8), targets, candidates),
        lambda: rk.log_prob_candidates(torch.ones(300, 8), torch.ones(100, 8), candidates),
        lambda: rk.log_prob_catalog(torch.ones(300, 8), torch.ones(100, 8), targets, candidates),
    ):
        with raises(IndexError, 100):
            call()


def sampler() -> None:
    """Sampling by rejection and from a list, and users with too few items."""
    seen = [list(range(user % 190)) for user in range(2000)]
    heavy = np.ones(200)
    heavy[7] = 1e9
    for weights in (None, np.linspace(1, 2, 200), heavy):
        one, many = (
            rk.sample_negatives(200, seen, 10, weights=weights, num_threads=threads)
            for threads in (1, THREADS)
        )
        assert (one == many).all()
    with raises(ValueError, "user 186", "num_negs", 15):
        rk.sample_negatives(200, seen, 15, num_threads=THREADS)


def main() -> None:
    torch.set_num_threads(THREADS)
    for level in rk.ops.cpu_levels():
        operators(level)
    errors()
    sampler()
    calls = [lambda: operators(rk.ops.cpu_level()), errors, sampler]
    with ThreadPoolExecutor(len(calls)) as callers:
        for done in [callers.submit(call) for call in calls]:
            done.result()
    print("all operators and the sampler ran on", THREADS, "threads")


if __name__ == "__main__":
    main()
