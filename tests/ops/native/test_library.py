import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2t_vit import create_model
from t2t_vit.errors import UserError
from t2t_vit.ops.native import library
from t2t_vit.ops.split_norm_linear import check_kernels


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Each test looks for the kernels again, and what it found is forgotten."""
    library._found.cache_clear()
    yield
    library._found.cache_clear()


def test_a_processor_without_the_instructions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_processor", lambda: "fpu avx2 avx512f avx512bw avx512vl")
    assert library.unavailable() == "this processor has no avx512_bf16"
    with pytest.raises(RuntimeError, match="avx512_bf16"):
        library.library()


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert library.unavailable() == "they are for Linux on x86-64, and this is Darwin on arm64"


def test_a_machine_without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_processor", lambda: " ".join(library.NEEDED))
    monkeypatch.setattr(library, "which", lambda _: None)
    assert library.unavailable() == "there is no C++ compiler (g++, clang++, c++)"


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'fatal: no headers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_processor", lambda: " ".join(library.NEEDED))
    monkeypatch.setattr(library, "which", lambda _: str(compiler))
    assert library.unavailable() == f"compiling them with {compiler} fails (fatal: no headers)"
    assert not list((tmp_path / "cache" / "t2t_vit" / "native").glob("*.so"))


def test_a_folder_that_others_may_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = library._folder()
    assert own == tmp_path / "t2t_vit" / "native"
    assert stat.S_IMODE(own.stat().st_mode) & 0o077 == 0
    own.chmod(0o777)
    other = library._folder()
    assert other != own
    other.rmdir()


def test_the_network_answers_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("t2t_vit_quickstart", image_size=28, in_chans=1).eval()
    asked = create_model("t2t_vit_quickstart", image_size=28, in_chans=1, kernels="native").eval()
    images = torch.randn(2, 1, 28, 28)
    exact = model(images)
    library._found.cache_clear()
    monkeypatch.setattr(library, "_processor", lambda: "fpu")
    with pytest.raises(UserError, match="this processor has no"):
        check_kernels("native", torch.device("cpu"), predicts=True)
    with pytest.raises(UserError, match="they are for inference on a CPU"):
        check_kernels("native", torch.device("cpu"))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), exact, atol=5e-6, rtol=0)
        with pytest.raises(UserError, match="kernels 'native' cannot run: this processor has no avx512f"):
            asked(images)
