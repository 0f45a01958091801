"""The encoder, with the packaged model."""

import pickle

import pytest
import torch
from sentence_transformers import SentenceTransformer

from rl4rec_kernels import Encoder
from tests.errors import raises
from tests.index.cases import TEXTS


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


def test_the_fingerprint_covers_settings_without_weights(encoder):
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
    ("texts", "error", "named"),
    [
        ("one text", TypeError, ("texts", "str", "list")),
        (5, TypeError, ("texts", "list of strings", "int")),
        ([], ValueError, ("texts", "empty")),
        (["a", None], TypeError, ("texts[1]", "string", "NoneType")),
        (["a", "\ud800"], ValueError, ("texts[1]", "Unicode")),
    ],
)
def test_bad_texts_are_named(encoder, texts, error, named):
    with raises(error, *named):
        encoder.encode_queries(texts)


def test_bad_arguments_are_named():
    with raises(ValueError, "batch_size", "at least 1", 0):
        Encoder(batch_size=0)
    with raises(ValueError, "max_length", 5000, "'minilm'", 512):
        Encoder(max_length=5000)
    with raises(TypeError, "model", "name", 3):
        Encoder(3)
    for device in (1.5, torch.float64, ["cpu"], 0):
        with raises(TypeError, "device", device):
            Encoder(device=device)
    with raises(ValueError, "device", "'gpu'"):
        Encoder(device="gpu")
    assert Encoder(device=torch.device("cpu")).device.type == "cpu"
    with raises(TypeError, "query_prefix", "string", 3):
        Encoder(query_prefix=3)


def test_pickling(encoder):
    """Trainers send reward functions to other processes."""
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy.fingerprint == encoder.fingerprint
    assert torch.equal(copy.encode_queries(["soap"]), encoder.encode_queries(["soap"]))


def test_a_loaded_model_is_not_changed(encoder):
    limit = encoder.model.max_seq_length
    with raises(ValueError, "max_length", "set model.max_seq_length"):
        Encoder(encoder.model, max_length=8)
    assert encoder.model.max_seq_length == limit


def test_a_progress_bar_says_what_is_encoded(encoder, caplog):
    with caplog.at_level("INFO", "rl4rec_kernels.index"):
        encoder.encode_items(["a", "b"], show_progress=True)
        encoder.encode_queries(["a"], show_progress=True)
        encoder.encode_queries(["a"])
    assert [record.args for record in caplog.records] == [("2", "items"), ("1", "queries")]
