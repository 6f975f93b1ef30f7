"""What the compiled kernels are tested with."""

from collections.abc import Callable, Iterator

import pytest
import torch

from t2t_vit.fast import native
from t2t_vit.fast.native.processor import LEVELS, SWITCH, cpu_level, processor_level

NAMES = {"avx2": "AVX2", "avx512": "AVX-512", "avx512_bf16": "AVX-512 and bfloat16", "amx": "AMX"}


@pytest.fixture
def at_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lowers this process to a level of the processor, or skips the test where the processor does not have it."""

    def lower(level: str) -> None:
        if LEVELS.index(level) > LEVELS.index(processor_level()):
            pytest.skip(f"needs a processor with {NAMES[level]}")
        monkeypatch.setenv(SWITCH, level)
        cpu_level.cache_clear()

    yield lower
    monkeypatch.undo()
    cpu_level.cache_clear()


@pytest.fixture(params=["avx512_bf16", "amx"])
def kernels(request: pytest.FixtureRequest, at_level: Callable[[str], None]) -> str:
    """Each level that there are kernels for."""
    level = str(request.param)
    at_level(level)
    reason = native.unavailable()
    if reason is not None:
        pytest.skip(f"needs compiled kernels: {reason}")
    return level


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """And the same numbers each time: of few of them the greatest error is a matter of luck."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
