"""Train a projection of MiniLM's embeddings with the cross-entropy over the whole catalog.

    python examples/train_projection.py                 # Amazon Beauty under $RL4REC_DATA
    python examples/train_projection.py --name ml-100k --data-dir DIR --steps 50

A user is the mean embedding of the last titles, an item the embedding of its text. Two matrices,
which begin as the identity, project both sides. The loss is ``-rk.log_prob_catalog``: the softmax
runs over all items at every step, but no ``[batch, items]`` matrix is made. Held-out users' targets
are ranked in the whole catalog before and after.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

import rl4rec_kernels as rk
from rl4rec_kernels.index.cache import cached_index

LATEST = 10  # items of a history that make the user's embedding


@dataclass
class Settings:
    """Sizes of a run; the defaults take a few minutes on two cores."""

    name: str = "beauty"
    data_dir: str | None = None
    steps: int = 150
    batch: int = 1024
    temperature: float = 0.05
    learning_rate: float = 2e-3
    seed: int = 0


class Users:
    """The users of a split: their embeddings, targets and histories."""

    def __init__(self, dataset: rk.RecommendationDataset, table: Tensor) -> None:
        self.histories = [dataset.history(i) for i in range(len(dataset))]
        self.targets = torch.from_numpy(np.asarray(dataset.targets))
        latest = rk.RaggedIds.from_lists([history[-LATEST:] for history in self.histories])
        values, offsets = (torch.as_tensor(part, device="cpu") for part in latest)
        self.embeddings = torch.nn.functional.embedding_bag(
            values.long(), table, offsets.long(), mode="mean", include_last_offset=True
        )


class TwoTowers(torch.nn.Module):
    """Projections of users and items to the unit sphere."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.users, self.items = (torch.nn.Linear(dim, dim, bias=False) for _ in range(2))
        for layer in (self.users, self.items):
            torch.nn.init.eye_(layer.weight)

    def forward(self, users: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        return normalize(self.users(users), dim=1), normalize(self.items(table), dim=1)


@torch.no_grad()
def ndcg(model: TwoTowers, users: Users, table: Tensor, valid: Tensor | None) -> float:
    """Mean NDCG@10 of the targets in the whole catalog, without what each user has seen."""
    query, items = model(users.embeddings, table)
    seen = rk.RaggedIds.from_lists(users.histories)
    return float(rk.reward_catalog(query, items, users.targets, seen, valid=valid).mean())


def train(
    model: TwoTowers, users: Users, table: Tensor, valid: Tensor | None, settings: Settings
) -> list[float]:
    """Train on batches of users; return the losses."""
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    losses = []
    for step in range(settings.steps):
        rows = torch.randint(
            len(users.targets),
            (settings.batch,),
            generator=generator,
            dtype=torch.int64,
            device="cpu",
        )
        query, items = model(users.embeddings[rows], table)
        log_probs = rk.log_prob_catalog(
            query, items, users.targets[rows], temperature=settings.temperature, valid=valid
        )
        loss = -log_probs.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}", flush=True)
    return losses


def run(settings: Settings) -> tuple[float, float]:
    """Train, and return held-out users' NDCG@10 before and after."""
    torch.manual_seed(settings.seed)
    items = rk.load_item_metadata(settings.name, settings.data_dir)
    encoder = rk.Encoder("minilm", device="cpu")
    index = cached_index(settings.name, items, encoder)
    table = index.table.clone().float()
    splits = {}
    for split in ("train", "test"):
        prompts = rk.PromptGenerator(items)
        dataset = rk.RecommendationDataset(
            settings.name, items, prompts, split, data_dir=settings.data_dir
        )
        splits[split] = Users(dataset, table)
    model = TwoTowers(table.shape[1])
    before = ndcg(model, splits["test"], table, index.valid)
    start = time.perf_counter()
    train(model, splits["train"], table, index.valid, settings)
    seconds = time.perf_counter() - start
    after = ndcg(model, splits["test"], table, index.valid)
    print(f"held-out NDCG@10: {before:.4f} before, {after:.4f} after {seconds:.0f} s of training")
    return before, after


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in vars(Settings()).items():
        kind = type(default) if default is not None else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    run(Settings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
