"""Calls and answers come out of the wire as they went in."""

import pickle

import msgpack
import numpy as np
import pytest
import torch

from rl4rec_kernels import RaggedIds, RankCounts
from rl4rec_kernels.service.calls import Call, Ranked
from rl4rec_kernels.service.wire import pack_answer, pack_call, unpack_answer, unpack_call
from tests.errors import raises


@pytest.mark.parametrize("largest", [9, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**62])
@pytest.mark.parametrize("rows", [1, 400])
def test_calls(largest, rows):
    ids = np.random.default_rng(0).integers(0, largest, 3 * rows, endpoint=True)
    ids[-1] = largest
    ragged = RaggedIds(ids, np.arange(0, len(ids) + 1, 3))
    texts = [f"text {i} é" for i in range(rows)]
    for candidates, histories in ((ragged, None), (None, ragged), (None, None)):
        temperature = None if histories is None else 0.05
        call = Call("toys", texts, ids[:rows], candidates, histories, False, temperature)
        got = unpack_call(pack_call(call))
        assert (got.dataset, got.texts, got.wants_scores) == ("toys", texts, False)
        assert got.temperature == temperature
        assert got.targets.dtype == np.int64
        assert np.array_equal(got.targets, call.targets)
        for part, want in ((got.candidates, candidates), (got.histories, histories)):
            assert (part is None) == (want is None)
            assert part is None or all(map(np.array_equal, part, want))


def test_a_call_without_ids():
    call = Call("toys", ["soap"], None, None, None, True)
    assert unpack_call(pack_call(call)) == call


def test_a_large_call_is_sent_in_pieces():
    call = Call("toys", ["x" * 10**6], None, None, None, True)
    pieces = pack_call(call)
    assert max(map(len, pieces)) <= 100 << 10
    assert unpack_call(pieces) == call


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x93\x01\x02",
        msgpack.packb(5),
        msgpack.packb(("toys", ["a"], ("O", b"12345678"), (None, None), (False, None))),
        msgpack.packb(("toys", ["a"], ("l", b"1234"), (None, None), (False, None))),
        pickle.dumps(("toys", ["a"], None, (None, None), (False, None))),
    ],
)
def test_other_bytes_are_an_error_and_run_no_code(packed):
    with raises(ValueError, "call"):
        unpack_call([packed])


def test_a_data_set_that_is_not_a_name_is_sent_as_what_it_looks_like():
    call = Call(["toys"], ["soap"], None, None, None, True)  # type: ignore[arg-type]
    assert unpack_call(pack_call(call)).dataset == "['toys']"


def test_answers_are_writable_copies():
    counts = RankCounts(*torch.arange(12).reshape(3, 4))
    got = unpack_answer(pack_answer(counts))
    assert torch.equal(torch.stack(got), torch.stack(counts))
    got.above[0] = 7
    for rows in (1, 4, 7):
        ranked = Ranked(RankCounts(*torch.arange(3 * rows).reshape(3, rows)), torch.randn(rows))
        packed = pack_answer(ranked)
        assert len(packed) == 28 * rows
        got = unpack_answer(packed, has_log_probs=True)
        assert torch.equal(torch.stack(got.counts), torch.stack(ranked.counts))
        assert torch.equal(got.log_probs, ranked.log_probs)
        got.counts.above[0], got.log_probs[0] = 7, -1.0
    scores = torch.rand(2, 5)
    packed = pack_answer(scores)
    packed.flags.writeable = False  # as Ray returns it
    got = unpack_answer(packed)
    assert torch.equal(got, scores)
    got[0, 0] = 7
