"""Fixtures of the index's tests."""

import pytest

from rl4rec_kernels import Encoder, ItemIndex
from tests.index.cases import METADATA


@pytest.fixture(scope="session")
def index(encoder: Encoder) -> ItemIndex:
    return ItemIndex.build(METADATA, encoder)
