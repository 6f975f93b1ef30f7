"""Tests against the real MindSpore: `make test-mindspore`, which puts it into an environment of its own."""

import os

import pytest

from t2t_vit.inference.mindir_predictor import VARIABLE


@pytest.fixture(scope="session")
def mindspore_python() -> str:
    """The Python that has MindSpore."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.fail(f"{VARIABLE} names no Python with MindSpore; run: make test-mindspore")
    return named
