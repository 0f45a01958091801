"""The encoder, with the real model that a package carries."""

import pickle
import subprocess
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer

from rl4rec_kernels import Encoder

TEXTS = ["red lipstick", "a shampoo for dry hair", "", "립스틱 💄", "x" * 3000]


def test_texts_become_unit_vectors_of_the_model(encoder):
    vectors = encoder.encode_queries(TEXTS)
    assert vectors.shape == (5, encoder.dim) == (5, 384)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    want = torch.from_numpy(encoder.model.encode(TEXTS, normalize_embeddings=True))
    torch.testing.assert_close(vectors, want, rtol=0, atol=1e-5)


def test_a_vector_hardly_depends_on_its_batch(encoder):
    alone = torch.cat([encoder.encode_queries([text]) for text in TEXTS])
    torch.testing.assert_close(alone, encoder.encode_queries(TEXTS), rtol=0, atol=1e-5)


def test_prefixes_and_scaling(encoder):
    other = Encoder(encoder.model, query_prefix="query: ", item_prefix="item: ", normalize=False)
    want = torch.from_numpy(encoder.model.encode(["query: soap", "item: soap"]))
    got = torch.cat([other.encode_queries(["soap"]), other.encode_items(["soap"])])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_the_fingerprint_tells_encoders_apart(encoder):
    assert encoder.fingerprint == Encoder(encoder.model).fingerprint
    assert encoder.fingerprint == Encoder(encoder.model, query_prefix="q").fingerprint
    assert encoder.fingerprint != Encoder(encoder.model, item_prefix="q").fingerprint
    assert encoder.fingerprint != Encoder(encoder.model, normalize=False).fingerprint
    trained = Encoder()
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.add_(1e-3)
    assert trained.fingerprint != encoder.fingerprint
    assert Encoder(max_length=16).fingerprint != encoder.fingerprint


def test_the_fingerprint_knows_settings_without_weights(encoder):
    transformer, pooling = encoder.model[0], encoder.model[1]
    first_token, mean = (
        Encoder(
            SentenceTransformer(
                modules=[transformer, type(pooling)(encoder.dim, pooling_mode=mode)], device="cpu"
            )
        )
        for mode in ("cls", "mean")
    )
    assert first_token.fingerprint != mean.fingerprint


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        ("one text", TypeError, "put a single text in a list"),
        (5, TypeError, "texts must be a list of strings, got int"),
        ([], ValueError, "texts is empty"),
        (["a", None], TypeError, r"texts\[1\] must be a string, got NoneType"),
        (["a", "\ud800"], ValueError, r"texts\[1\] is no valid Unicode"),
    ],
)
def test_bad_texts_are_named(encoder, texts, error, words):
    with pytest.raises(error, match=words):
        encoder.encode_queries(texts)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Encoder(batch_size=0)
    with pytest.raises(ValueError, match="5000 but 'minilm' has positions for 512 tokens"):
        Encoder(max_length=5000)
    with pytest.raises(TypeError, match="model must be a name"):
        Encoder(3)
    with pytest.raises(TypeError, match="query_prefix must be a string, got 3"):
        Encoder(query_prefix=3)


def test_pickling(encoder):
    """Trainers send what they call to other processes."""
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy.fingerprint == encoder.fingerprint
    assert torch.equal(copy.encode_queries(["soap"]), encoder.encode_queries(["soap"]))


def test_a_loaded_model_is_left_as_it_is(encoder):
    limit = encoder.model.max_seq_length
    with pytest.raises(ValueError, match=r"set model.max_seq_length on the loaded one"):
        Encoder(encoder.model, max_length=8)
    assert encoder.model.max_seq_length == limit


def test_openvino_gives_the_same_vectors(encoder):
    pytest.importorskip("openvino")
    fast = Encoder(backend="openvino")
    assert fast.fingerprint == encoder.fingerprint
    texts = [*TEXTS, *("soap " * n for n in range(1, 80, 3))]
    want = encoder.encode_queries(texts)
    torch.testing.assert_close(fast.encode_queries(texts), want, rtol=0, atol=1e-5)
    copy = pickle.loads(pickle.dumps(fast))
    torch.testing.assert_close(copy.encode_queries(texts), want, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="backend='openvino' is for models that are loaded here"):
        Encoder(encoder.model, backend="openvino")
    with pytest.raises(ValueError, match="on the CPU"):
        Encoder(backend="openvino", device="cuda")
    with pytest.raises(ValueError, match="backend must be torch or openvino, got 'onnx'"):
        Encoder(backend="onnx")


def test_signals_are_safe_when_an_openvino_encoder_is_gone():
    """OpenVINO changes the stack for signals of the thread that loads it."""
    pytest.importorskip("openvino")
    script = """
import faulthandler, gc, signal, subprocess, sys
from rl4rec_kernels import Encoder

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda number, frame: None)  # as torch's DataLoader does
encoders = [Encoder(device="cpu", backend="openvino") for _ in range(2)]
for encoder in encoders:
    encoder.encode_queries(["a text"])
while encoders:  # the first made goes first
    del encoders[0], encoder
    gc.collect()
    encoder = None
subprocess.run([sys.executable, "-c", ""], check=True)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
