"""The matrix of remembered encodings: what it keeps, and reads while other threads write."""

import threading

import pytest
import torch

from rl4rec_kernels.service.encoding_memory import EncodingMemory, _num_bytes
from tests.forked import in_child

DIM = 64


def code(texts: list[str]) -> torch.Tensor:
    """An encoding that tells texts apart: all of its values are the text's number."""
    return torch.tensor([float(text) for text in texts])[:, None].expand(-1, DIM)


def memory_of(count: int) -> EncodingMemory:
    """One that holds `count` texts of three digits."""
    return EncodingMemory(count * _num_bytes("100", torch.empty(DIM)))


def remembered(memory: EncodingMemory, texts: list[str]) -> list[str]:
    _, missing = memory.recall(texts)
    return [text for i, text in enumerate(texts) if i not in missing]


def test_the_least_recently_used_texts_are_forgotten():
    memory = memory_of(3)
    assert memory.recall(["100", "101"]) == (None, [0, 1])
    memory.remember(["100", "101", "102"], code(["100", "101", "102"]))
    memory.recall(["100"])
    memory.remember(["103"], code(["103"]))  # in the slot of 101
    assert remembered(memory, ["100", "101", "102", "103"]) == ["100", "102", "103"]
    vectors, missing = memory.recall(["103", "101", "103", "100"])
    assert missing == [1]
    assert torch.equal(vectors[[0, 2, 3]], code(["103", "103", "100"]))
    memory.remember(["9" * 5000], torch.zeros(1, DIM))  # takes more than all slots
    assert 0 < memory.used_bytes <= 3 * _num_bytes("100", torch.empty(DIM))


def test_what_is_remembered_stays_as_it_is():
    memory = memory_of(2)
    vectors = code(["100"]).clone()
    memory.remember(["100"], vectors)
    memory.remember(["100"], vectors + 1)  # another thread was faster
    vectors += 5
    got, _ = memory.recall(["100"])
    got += 7
    assert torch.equal(memory.recall(["100"])[0], code(["100"]))


def test_vectors_of_another_size_replace_all():
    memory = memory_of(3)
    memory.remember(["100", "101"], code(["100", "101"]))
    memory.remember(["100"], torch.ones(1, 8))
    assert remembered(memory, ["100", "101"]) == ["100"]
    assert memory.recall(["100"])[0].shape == (1, 8)


def test_nothing_is_remembered_without_memory():
    memory = EncodingMemory(0)
    memory.remember(["100"], code(["100"]))
    assert memory.recall(["100"]) == (None, [0])
    assert memory.used_bytes == 0


@pytest.mark.parametrize("mode", [True, False])
def test_inference_mode_of_a_caller_does_not_matter(mode):
    memory = memory_of(3)
    with torch.inference_mode(mode):
        memory.remember(["100"], code(["100"]))
    with torch.inference_mode(not mode):
        memory.remember(["101"], code(["101"]))
    assert torch.equal(memory.recall(["100", "101"])[0], code(["100", "101"]))


def test_no_slot_is_overwritten_while_it_is_read():
    memory, wrong = memory_of(20), []
    stop = threading.Event()

    def use(first: int) -> None:
        texts = [str(100 + (first + i) % 40) for i in range(10)]
        while not stop.is_set():
            vectors, missing = memory.recall(texts)
            memory.remember([texts[i] for i in missing], code([texts[i] for i in missing]))
            known = [i for i in range(10) if i not in missing]
            if vectors is not None and not torch.equal(
                vectors[known], code([texts[i] for i in known])
            ):
                wrong.append(texts)
            texts = [*texts[1:], str(100 + (int(texts[-1]) - 99) % 40)]

    threads = [threading.Thread(target=use, args=(10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        children = [in_child(lambda: check(memory)) for _ in range(5)]  # while others write
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert all(children)
    assert check(memory)


def check(memory: EncodingMemory) -> bool:
    """Whether a memory, also a child's, is right and can be used."""
    texts = [str(100 + i) for i in range(40)]
    memory.remember(texts[:30], code(texts[:30]))
    vectors, missing = memory.recall(texts)
    known = [i for i in range(40) if i not in missing]
    return len(known) >= 19 and torch.equal(vectors[known], code([texts[i] for i in known]))
