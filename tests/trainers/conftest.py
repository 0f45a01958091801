"""The trainers, a service on Ray, data in their columns, and what can go wrong."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

import rl4rec_kernels as rk
from rl4rec_kernels.service.deploy import start_service, stop_service
from tests.data.cases import dataset, write_tiny

NAME, NAMESPACE = "Trainers", "tests"
TEXTS = ["mild soap", "<think>oil?</think><query>a red brush</query>", "a warm cap"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def trainers() -> None:
    """Make the trainers importable, after everything that is installed."""
    folder = os.environ.get("RL4REC_TRAINERS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the trainers: run `make test-trainers`, which downloads them")
    if folder not in sys.path:
        sys.path.append(folder)
        # For the processes that Ray starts.
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (before, folder)))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that texts are decoded as they were encoded."""
    bytes_ = ByteLevelBPETokenizer()
    special = ["<pad>", "</s>", "<|user|>", "<|assistant|>"]
    bytes_.train_from_iterator([], vocab_size=256 + len(special), special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_._tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A data set with three users, each with a target, a history and negatives."""
    root = write_tiny(tmp_path_factory.mktemp("data"))
    return dataset(root, num_negs=3, num_items=10)


@pytest.fixture(scope="session")
def index_file(samples, encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "tiny.safetensors"
    rk.ItemIndex.build(samples.item_metadata, encoder).save(path)
    return path


@pytest.fixture(scope="session")
def expected(samples, index_file, encoder) -> list[float]:
    """The rewards of `TEXTS`, computed in this process."""
    service = rk.LocalRetrievalService({"tiny": rk.ItemIndex.open(index_file)}, encoder)
    reward = rk.RecReward(dataset_name="tiny", reward_type="logrank", service=service)
    columns = ([row[name] for row in samples] for name in ("target", "history", "neg_items"))
    values = reward(TEXTS, *columns)
    assert len(set(values)) > 1
    return values


@pytest.fixture(scope="session")
def service(ray, index_file, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service on Ray with the data set, and with one that has only the first items."""
    short = tmp_path_factory.mktemp("index") / "short.safetensors"
    rk.ItemIndex.from_embeddings(torch.eye(2, 384), ids=(1, 2)).save(short)
    files = {"tiny": str(index_file), "short": str(short)}
    yield start_service(files, name=NAME, namespace=NAMESPACE)
    stop_service(NAME, NAMESPACE)
