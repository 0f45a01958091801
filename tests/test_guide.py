"""The original user's guide: its snippets without Ray, with only the import lines changed."""

import itertools
import math
import shutil

import pytest

from rl4rec_kernels import LocalRetrievalService, cached_index, load_item_metadata

IMPORTS = """
from rl4rec_kernels import (
    PromptGenerator, RecommendationDataset, RecRewardFrunction, create_dataloaders,
    load_item_metadata,
)
"""

DATASET = """
item_metadata = load_item_metadata("beauty")
num_items = max(item_metadata.keys()) + 1

prompt_generator = PromptGenerator(item_metadata=item_metadata)

train_dataset = RecommendationDataset(
    data_name="beauty",
    item_metadata=item_metadata,
    prompt_generator=prompt_generator,
    split="train",
    num_negs=5,
    num_items=num_items,
)

sample = train_dataset[0]
print(sample.keys())
print(f"Target: {sample['target']}")
print(f"Negatives: {sample['neg_items']}")
"""

REWARD = """
reward_fn = RecRewardFrunction(
    retrieval_service_name="RetrievalService",
    namespace="rl4rec",
    dataset_name="beauty",
    reward_type="ndcg",
    k=10,
)

generated_texts = ["User prefers..."]
targets = [42]
histories = [[1, 2, 3, 4, 5]]
neg_items = [[100, 200, 300, 400, 500]]

rewards = reward_fn(
    generated_texts=generated_texts,
    targets=targets,
    histories=histories,
    neg_items=neg_items,
)

print(f"Reward: {rewards}")
"""

SCENARIO_ALL_ITEMS = """
test_dataset = RecommendationDataset(
    data_name="beauty",
    item_metadata=item_metadata,
    prompt_generator=prompt_generator,
    split="test",
    num_negs=0,
)

rewards = reward_fn(
    generated_texts=texts,
    targets=targets,
    histories=histories,
)
"""

SCENARIO_NEGATIVES = """
train_dataset = RecommendationDataset(
    data_name="beauty",
    item_metadata=item_metadata,
    prompt_generator=prompt_generator,
    split="train",
    num_negs=99,
    num_items=num_items,
)

sample = train_dataset[0]
rewards = reward_fn(
    generated_texts=[sample['prompt']],
    targets=[sample['target']],
    histories=[sample['history']],
    neg_items=[sample['neg_items']],
)
"""

VALIDATION = """
sample = train_dataset[0]
history_set = set(sample['history'])
target = sample['target']
neg_set = set(sample['neg_items'])

assert target not in neg_set
assert len(history_set & neg_set) == 0
print("✓ Validation passed")
"""

PIPELINE = """
import argparse

args = argparse.Namespace(
    dataset_name="beauty",
    num_negs=99,
    num_items=12102,
    batch_size=32,
)

train_ds, valid_ds, test_ds, prompt_gen, item_meta = create_dataloaders(args)

for batch in train_ds:
    rewards = reward_fn(
        generated_texts=batch['prompts'],
        targets=batch['targets'],
        histories=batch['histories'],
        neg_items=batch['neg_items'],
    )
    seen.append((batch, rewards))
"""


@pytest.fixture(scope="module")
def few_users(beauty_dir, tmp_path_factory):
    """All items of Beauty, but only the first users."""
    root = tmp_path_factory.mktemp("data")
    (root / "beauty").mkdir()
    shutil.copy(beauty_dir / "beauty" / "item_metadata.json", root / "beauty")
    with (beauty_dir / "beauty" / "sequential_data.txt").open() as lines:
        (root / "beauty" / "sequential_data.txt").write_text("".join(itertools.islice(lines, 70)))
    return root


@pytest.fixture(scope="module")
def started(few_users, short_encoder, index_cache):
    """The service that the guide expects to run: the items of Beauty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL4REC_CACHE", str(index_cache))
        items = load_item_metadata("beauty", data_dir=few_users)
        index = cached_index("beauty", items, short_encoder)
    return LocalRetrievalService({"beauty": index}, short_encoder).register()


@pytest.fixture
def run(started, few_users, monkeypatch):
    monkeypatch.setenv("RL4REC_DATA", str(few_users))
    names: dict = {"seen": []}

    def execute(*snippets: str) -> dict:
        for snippet in (IMPORTS, *snippets):
            exec(snippet, names)
        return names

    return execute


def test_dataset_with_negatives(run, capsys):
    names = run(DATASET, VALIDATION)
    assert list(names["sample"]) == ["prompt", "history", "target", "user_id", "neg_items"]
    assert len(names["sample"]["neg_items"]) == 5
    assert "Validation passed" in capsys.readouterr().out


def test_reward(run, capsys):
    (reward,) = run(REWARD)["rewards"]
    assert reward in [pytest.approx(1 / math.log2(1 + rank)) for rank in range(1, 7)]
    assert "Reward: [" in capsys.readouterr().out


def test_scenario_with_all_items(run):
    names = run(DATASET, REWARD, 'texts = ["User prefers..."]', SCENARIO_ALL_ITEMS)
    assert names["test_dataset"][0]["neg_items"] == []
    assert 0 <= names["rewards"][0] <= 1


def test_scenario_with_negatives(run):
    names = run(DATASET, REWARD, SCENARIO_NEGATIVES, VALIDATION)
    assert len(names["sample"]["neg_items"]) == 99
    assert 0 <= names["rewards"][0] <= 1


def test_training_pipeline(run):
    names = run(REWARD, PIPELINE)
    assert [len(rewards) for _, rewards in names["seen"]] == [32, 32, 6]
    rewards = {reward for _, batch in names["seen"] for reward in batch}
    assert len(rewards) > 1
    assert all(0 <= reward <= 1 for reward in rewards)
    assert len(names["test_ds"].dataset) == 70
