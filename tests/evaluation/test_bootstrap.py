"""Bootstrap intervals, checked against the definition and for their coverage."""

import numpy as np
import torch

from rl4rec_kernels.evaluation.bootstrap import bootstrap_intervals


def test_the_bootstrap_resamples_users():
    values = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) ** 3
    got = bootstrap_intervals({"a": values, "b": values * 2}, 400, 0.9, seed=5)
    means = []
    for i in range(400):
        drawn = np.random.default_rng((5, i)).integers(30, size=30)
        means.append(values.double()[drawn].mean(0).numpy())
    want = np.quantile(np.stack(means), [0.05, 0.95], axis=0)
    np.testing.assert_allclose(got["a"].numpy(), want, rtol=1e-6)
    torch.testing.assert_close(got["b"], 2 * got["a"], rtol=1e-6, atol=0)


def test_intervals_cover_the_truth_at_their_confidence():
    truth, generator = 0.3, torch.Generator().manual_seed(2)
    samples = (torch.rand(300, 200, generator=generator) < truth).float()
    ends = [bootstrap_intervals({"a": s[:, None]}, 200, 0.9, seed=1)["a"] for s in samples]
    inside = [bool(low <= truth <= high) for low, high in (end[:, 0] for end in ends)]
    assert 0.84 <= np.mean(inside) <= 0.95


def test_blocks_of_replicates_do_not_change_intervals(monkeypatch):
    values = {"a": torch.rand(50, 2, generator=torch.Generator().manual_seed(3))}
    whole = bootstrap_intervals(values, 33, 0.95, seed=0)
    monkeypatch.setattr("rl4rec_kernels.evaluation.bootstrap._BLOCK_BYTES", 50 * 8 * 4)
    parts = bootstrap_intervals(values, 33, 0.95, seed=0)
    torch.testing.assert_close(parts["a"], whole["a"], rtol=1e-12, atol=0)
