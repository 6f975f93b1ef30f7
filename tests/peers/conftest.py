"""Tests with other people's libraries, in an environment of their own: `make test-peers`."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.compiler.reset()
