"""Inputs of evaluations that several tests share."""

import numpy as np
import torch

import rl4rec_kernels as rk

NUM_ITEMS = 60
PROTOCOLS = ("sampled", "whole catalog", "corrected (unbiased)", "corrected (bias-variance)")


def make_case(users=40, negatives=9, seed=0):
    """Queries, a table whose row 0 is padding, targets, histories and negatives."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(NUM_ITEMS + 1, 8, generator=generator)
    query = torch.randn(users, 8, generator=generator)
    rng = np.random.default_rng(seed)
    rows = [rng.choice(NUM_ITEMS, 1 + rng.integers(0, 12), replace=False) + 1 for _ in range(users)]
    targets, histories = [int(row[0]) for row in rows], [row[1:].tolist() for row in rows]
    valid = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    valid[0] = False
    seen = [row.tolist() for row in rows]
    drawn = rk.sample_negatives(NUM_ITEMS + 1, seen, negatives, seed=seed)
    return query, table, targets, {"negatives": drawn, "exclude": histories, "valid": valid}
