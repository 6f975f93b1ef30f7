import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest
import torch

from t2t_vit import create_model, pack
from t2t_vit.errors import UserError
from t2t_vit.fast import native
from t2t_vit.fast.kernels import check_kernels
from t2t_vit.fast.native import library, processor
from t2t_vit.fast.native.processor import SWITCH, cpu_level


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test looks for the processor and the kernels again, and what it found is forgotten."""
    monkeypatch.delenv(SWITCH, raising=False)
    cpu_level.cache_clear()
    library._found.cache_clear()
    yield
    monkeypatch.undo()
    cpu_level.cache_clear()
    library._found.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """This processor is one of `level`."""
    below = processor.LEVELS[: processor.LEVELS.index(level) + 1]
    has = frozenset(name for below_it in below for name in processor.INSTRUCTIONS[below_it])
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "instructions", lambda: has)
    monkeypatch.setattr(processor, "_may_use_tiles", lambda: level == "amx")
    cpu_level.cache_clear()
    library._found.cache_clear()


@pytest.mark.parametrize("level", processor.LEVELS)
def test_the_processors_level(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, level)
    assert cpu_level() == level


def test_tiles_that_linux_does_not_lend_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "amx")
    monkeypatch.setattr(processor, "_may_use_tiles", lambda: False)
    assert cpu_level() == "avx512_bf16"


def test_a_level_needs_those_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "instructions", lambda: frozenset({"avx2", "fma", "avx512_bf16"}))
    assert cpu_level() == "avx2"


def test_the_switch_lowers_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")
    for level in ("none", "avx2", "avx512", "avx512_bf16"):
        monkeypatch.setenv(SWITCH, level)
        cpu_level.cache_clear()
        assert cpu_level() == level
    monkeypatch.setenv(SWITCH, "none")
    assert cpu_level() == "avx512_bf16"  # read once


def test_the_switch_does_not_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512")
    monkeypatch.setenv(SWITCH, "amx")
    message = "T2T_VIT_CPU: this processor does not have amx; its highest level is avx512"
    with pytest.raises(UserError, match=f"^{message}$"):
        library.unavailable()


def test_a_level_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "sse")
    with pytest.raises(UserError, match=r"^T2T_VIT_CPU: 'sse' is not one of none, avx2, avx512, avx512_bf16, amx$"):
        library.unavailable()


@pytest.mark.parametrize("level", ["none", "avx2", "avx512"])
def test_levels_without_kernels(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, level)
    assert library.unavailable() == "this processor has no avx512_bf16"
    with pytest.raises(RuntimeError, match="avx512_bf16"):
        library.library()
    pretend(monkeypatch, "amx")
    monkeypatch.setenv(SWITCH, level)
    assert library.unavailable() == f"there are none for T2T_VIT_CPU={level}"
    assert not library.has_tiles()
    assert not native.can_attend(64, torch.bfloat16)
    assert not native.can_run_tail(*[torch.empty(64, 64, dtype=torch.bfloat16)] * 3)
    assert not native.can_run_performer(64, 32, torch.float32)
    assert not native.can_multiply_float32(torch.empty(384, 384))


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert cpu_level() == "none"
    assert library.unavailable() == "they are for Linux on x86-64, and this is Darwin on arm64"


def test_a_machine_without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(library, "which", lambda _: None)
    assert library.unavailable() == "there is no C++ compiler (g++, clang++, c++)"


@pytest.mark.parametrize(("level", "asked"), [("avx512_bf16", False), ("amx", True)])
def test_the_matrix_unit_is_compiled_for_where_it_may_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str, asked: bool
) -> None:
    """Told by a compiler that writes down what it is asked for."""
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pretend(monkeypatch, level)
    monkeypatch.setattr(library, "which", lambda _: str(compiler))
    assert library.unavailable() is not None
    assert ("-DT2T_VIT_AMX" in (tmp_path / "asked").read_text().split()) == asked


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'fatal: no headers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pretend(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(library, "which", lambda _: str(compiler))
    assert library.unavailable() == f"compiling them with {compiler} fails (fatal: no headers)"
    assert not list((tmp_path / "cache" / "t2t_vit" / "native").glob("*.so"))


def test_a_folder_that_others_may_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = library._folder()
    assert own is not None and own == tmp_path / "t2t_vit" / "native"
    assert stat.S_IMODE(own.stat().st_mode) & 0o077 == 0
    own.chmod(0o777)
    assert library._folder() is None


def counting_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A compiler that makes a library of a single function, and a file with a line for each time that it is called."""
    real = which("g++") or which("cc")
    if real is None:
        pytest.skip("needs a C++ compiler")
    (folder / "one.c").write_text("int has_tiles(void) { return 0; }\n")
    compiler, calls = folder / "g++", folder / "calls"
    compiler.write_text(
        f"#!/bin/sh\necho >> {calls}\n"
        'while [ "$1" != -o ]; do shift; done\n'
        f'exec {real} -x c -shared -fPIC {folder}/one.c -o "$2"\n'
    )
    compiler.chmod(0o755)
    calls.touch()
    pretend(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(library, "which", lambda _: str(compiler))
    return calls


@pytest.mark.parametrize("spoil", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda whole: whole[::-1]])
def test_a_damaged_library_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """Half of one would end the process with SIGBUS, at every start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = counting_compiler(monkeypatch, tmp_path)
    assert library.unavailable() is None and not library.has_tiles()
    kept = tmp_path / "cache" / "t2t_vit" / "native"
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n"
    path.unlink()  # a new file: this process still has the old one in its memory
    path.write_bytes(spoil(whole))
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n\n"
    (again,) = kept.iterdir()
    assert again.read_bytes() != spoil(whole)


def kernels_of(folder: Path) -> Path:
    return folder / "cache" / "t2t_vit" / "native"


def test_a_folder_in_the_place_of_a_library_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counting_compiler(monkeypatch, tmp_path)
    assert library.unavailable() is None
    (path,) = kernels_of(tmp_path).iterdir()
    path.unlink()
    (path / "within").mkdir(parents=True)
    library._found.cache_clear()
    assert library.unavailable() is None and not library.has_tiles()
    (again,) = kernels_of(tmp_path).iterdir()
    assert again.is_file()


@pytest.mark.parametrize("what", ["cannot be written", "is a file", "is full"])
def test_where_nothing_can_be_kept_kernels_run_all_the_same(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    counting_compiler(monkeypatch, tmp_path)
    if what == "is a file":
        (tmp_path / "cache").touch()
    else:
        made = tempfile.mkdtemp

        def refusing(*, prefix: str, dir: Path) -> str:
            if dir == kernels_of(tmp_path):
                raise PermissionError(13, what) if what == "cannot be written" else OSError(28, what)
            return made(prefix=prefix, dir=dir)

        monkeypatch.setattr(tempfile, "mkdtemp", refusing)
    assert library.unavailable() is None and not library.has_tiles()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_library_is_loaded_from_a_folder_that_may_not_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = counting_compiler(monkeypatch, tmp_path)
    assert library.unavailable() is None
    kernels_of(tmp_path).chmod(0o555)
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n"
    kernels_of(tmp_path).chmod(0o755)


KILLED = """
import sys, time
from pathlib import Path
from t2t_vit.files import working_folder
with working_folder(Path(sys.argv[1]), "native") as folder:
    (folder / "half.o").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_compilation_left_goes_and_what_goes_on_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = kernels_of(tmp_path)
    kept.mkdir(parents=True, mode=0o700)
    calls = counting_compiler(monkeypatch, tmp_path)
    with subprocess.Popen([sys.executable, "-c", KILLED, kept], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert library.unavailable() is None and calls.read_text() == "\n"
        assert (left / "half.o").is_file()
        process.kill()
    next(kept.glob("*.so")).unlink()  # else there is nothing to compile
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n\n"
    assert [path.suffix for path in kept.iterdir()] == [".so"]


def test_two_that_compile_at_once_both_have_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second one compiles, and is done, while the first one does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = counting_compiler(monkeypatch, tmp_path)
    compiled, outer = library._compiled, list[Path]()

    def slowly(compiler: str, level: str, path: Path) -> Path:
        made = compiled(compiler, level, path)
        if not outer:
            outer.append(path)
            library._found.cache_clear()
            assert library.unavailable() is None
        return made

    monkeypatch.setattr(library, "_compiled", slowly)
    assert library.unavailable() is None and calls.read_text() == "\n\n"
    assert {path.suffix for path in kernels_of(tmp_path).iterdir()} == {".so"}
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n\n"


def test_of_old_libraries_the_last_used_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_KEPT", 3)
    kept = kernels_of(tmp_path)
    kept.mkdir(parents=True, mode=0o700)
    for age in range(1, 6):
        (kept / f"old-{age}.so").touch()
        os.utime(kept / f"old-{age}.so", (10**9 - age, 10**9 - age))
    calls = counting_compiler(monkeypatch, tmp_path)
    assert library.unavailable() is None
    (made,) = (path for path in kept.iterdir() if not path.name.startswith("old"))
    assert sorted(path.name for path in kept.iterdir() if path != made) == ["old-1.so", "old-2.so"]
    os.utime(made, (0, 0))
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n"
    assert made.stat().st_mtime > 10**9


def test_old_libraries_that_another_process_removes_cost_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_KEPT", 1)
    kept = kernels_of(tmp_path)
    kept.mkdir(parents=True, mode=0o700)
    for name in ("gone", "held", "old"):
        (kept / f"{name}.so").touch()
    calls, status, unlink = counting_compiler(monkeypatch, tmp_path), Path.lstat, Path.unlink

    def lstat(path: Path) -> os.stat_result:
        if path.name == "gone.so":
            unlink(path, missing_ok=True)
        return status(path)

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name == "held.so":
            raise PermissionError
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "lstat", lstat)
    monkeypatch.setattr(Path, "unlink", refused)
    assert library.unavailable() is None
    assert calls.read_text() == "\n"  # compiled once, into the folder
    assert len([path for path in kept.glob("*.so") if path.name != "held.so"]) == 1


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_build_that_ends_before_its_name_is_no_library(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a full disk: the kernels run from elsewhere, and the next start compiles again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = counting_compiler(monkeypatch, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((library.os, call) if call == "fsync" else (Path, call)), full)
        assert library.unavailable() is None
    assert list(kernels_of(tmp_path).iterdir()) == []
    library._found.cache_clear()
    assert library.unavailable() is None and calls.read_text() == "\n\n\n"
    assert [path.suffix for path in kernels_of(tmp_path).iterdir()] == [".so"]


def test_the_compilers_own_files_lie_beside_its_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$TMPDIR" > {tmp_path}/where\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pretend(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(library, "which", lambda _: str(compiler))
    assert library.unavailable() is not None
    where = Path((tmp_path / "where").read_text().strip())
    assert where.parent == kernels_of(tmp_path) and not where.exists()


def test_without_a_home_nothing_is_kept_and_nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    counting_compiler(monkeypatch, tmp_path)
    assert library.unavailable() is None and not library.has_tiles()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_network_is_packed_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("t2t_vit_quickstart", image_size=28, in_chans=1).eval()
    images = torch.randn(2, 1, 28, 28)
    exact = model(images).detach()
    pretend(monkeypatch, "none")
    with pytest.raises(UserError, match="kernels 'native' cannot run: this processor has no avx512_bf16"):
        check_kernels("native", torch.device("cpu"))
    with pytest.raises(UserError, match="cannot pack the network for the native kernels: this processor has no"):
        pack(model, native=True)
    packed = pack(model)
    assert "native" not in packed.made_of
    torch.testing.assert_close(packed(images), exact, atol=5e-6, rtol=0)
