"""A real service that adapters find by name."""

import json

import pytest
import torch

from rl4rec_kernels import Encoder, ItemIndex, LocalRetrievalService, RecReward
from rl4rec_kernels.data import write_label

NAME, NAMESPACE = "adapter tests", "tests"
OPTIONS = {
    "retrieval_service_name": NAME,
    "namespace": NAMESPACE,
    "dataset_name": "toys",
    "reward_type": "logrank",
    "k": 3,
}
TEXTS = ["red nail polish", "<think>soap?</think><query>dry hair</query>", "perfume", "a comb"]
TARGETS = [3, 3, 17, 17]
HISTORIES = [[1, 2], [1, 2], [5], [5]]
NEGATIVES = [[5, 9, 11], [5, 9, 11], [1, 2, 4, 6], [1, 2, 4, 6]]
LABELS = [write_label(*row) for row in zip(TARGETS, HISTORIES, NEGATIVES, strict=True)]


def start_service(encoder: Encoder) -> None:
    table = torch.randn(50, 384, generator=torch.Generator().manual_seed(0))
    table[0] = 0
    index = ItemIndex.from_embeddings(table)
    LocalRetrievalService({"toys": index}, encoder).register(NAME, NAMESPACE)


@pytest.fixture(scope="session")
def reward(encoder) -> RecReward:
    """A reward that finds its service by name."""
    start_service(encoder)
    return RecReward(**OPTIONS)


@pytest.fixture
def configured(reward, monkeypatch) -> RecReward:
    """The same, as functions without options find it: by ``RL4REC_REWARD``."""
    monkeypatch.setenv("RL4REC_REWARD", json.dumps(OPTIONS))
    return reward


@pytest.fixture(scope="session")
def expected(reward) -> list[float]:
    """The rewards of the samples above among their negatives."""
    values = reward(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    assert len(set(values)) > 2  # otherwise a test could not tell right from wrong
    return values
