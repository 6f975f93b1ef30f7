"""What the compiled kernels are tested with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from t2t_vit.fast import native
from t2t_vit.fast.native import library
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


@pytest.fixture
def amx_in_software(
    at_level: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The kernels for AMX, compiled such that they run without it: one compilation for all tests of a process."""
    at_level("avx512_bf16")
    flags = ("-DT2T_VIT_AMX", "-include", str(Path(__file__).with_name("amx_in_software.h")))
    monkeypatch.setitem(library.LEVEL_FLAGS, "avx512_bf16", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "amx_in_software"))
    library._found.cache_clear()
    yield
    library._found.cache_clear()


@pytest.fixture(params=["avx512_bf16", "amx", "amx in software"])
def kernels(request: pytest.FixtureRequest, at_level: Callable[[str], None]) -> str:
    """Each level that there are kernels for."""
    level = str(request.param)
    if level == "amx in software":
        request.getfixturevalue("amx_in_software")
    else:
        at_level(level)
    reason = native.unavailable()
    if reason is not None:
        pytest.skip(f"needs compiled kernels: {reason}")
    assert native.has_tiles() == (level != "avx512_bf16")
    return level


@pytest.fixture
def vectors(at_level: Callable[[str], None]) -> None:
    """The lowest level that there are kernels for."""
    at_level("avx512_bf16")
    reason = native.unavailable()
    if reason is not None:
        pytest.skip(f"needs compiled kernels: {reason}")


@pytest.fixture(params=["amx", "amx in software"])
def tiles(request: pytest.FixtureRequest, at_level: Callable[[str], None]) -> None:
    """The levels that have a matrix unit."""
    if request.param == "amx":
        at_level("amx")
    else:
        request.getfixturevalue("amx_in_software")
    if not native.has_tiles():
        pytest.skip("needs a compiler that knows AMX")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """And the same numbers each time: of few of them the greatest error is a matter of luck."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
