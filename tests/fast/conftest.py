"""Triton's kernels in tests: on a CUDA device where there is one, else on the CPU in Triton's interpreter."""

import pytest
import torch


@pytest.fixture
def triton_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where `kernels="triton"` can run within the test."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
