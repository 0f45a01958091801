"""The encoder on OpenVINO."""

import pickle
import subprocess
import sys

import pytest
import torch

from rl4rec_kernels import Encoder
from tests.errors import raises
from tests.index.cases import TEXTS


def test_openvino_gives_the_same_vectors(encoder):
    pytest.importorskip("openvino")
    fast = Encoder(backend="openvino")
    assert fast.fingerprint == encoder.fingerprint
    texts = [*TEXTS, *("soap " * n for n in range(1, 80, 3))]
    want = encoder.encode_queries(texts)
    torch.testing.assert_close(fast.encode_queries(texts), want, rtol=0, atol=1e-5)
    copy = pickle.loads(pickle.dumps(fast))
    torch.testing.assert_close(copy.encode_queries(texts), want, rtol=0, atol=1e-5)
    with raises(ValueError, "backend='openvino'", "models given by name"):
        Encoder(encoder.model, backend="openvino")
    with raises(ValueError, "backend='openvino'", "CPU", "cuda"):
        Encoder(backend="openvino", device="cuda")
    with raises(ValueError, "backend", "torch", "openvino", "'onnx'"):
        Encoder(backend="onnx")


def test_signals_are_safe_after_an_openvino_encoder_is_deleted():
    """OpenVINO changes the signal stack of the thread that loads it."""
    pytest.importorskip("openvino")
    script = """
import faulthandler, gc, signal, subprocess, sys
from rl4rec_kernels import Encoder
from tests.errors import raises
from tests.index.cases import TEXTS

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda number, frame: None)  # as torch's DataLoader does
encoders = [Encoder(device="cpu", backend="openvino") for _ in range(2)]
for encoder in encoders:
    encoder.encode_queries(["a text"])
while encoders:  # delete the first one first
    del encoders[0], encoder
    gc.collect()
    encoder = None
subprocess.run([sys.executable, "-c", ""], check=True)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
