import os
import stat
from pathlib import Path

import pytest

from t2t_vit.errors import UserError
from t2t_vit.files import (
    LONGEST_LINE,
    atomic_write,
    check_folder,
    chosen_cache,
    lines_of,
    open_regular,
    open_to_append,
    read_at_most,
)


def test_the_cache_of_who_runs_the_tests_is_left_alone(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    assert chosen_cache() == Path(pytestconfig.cache.mkdir("user-cache")) / "t2t_vit"


def test_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("über")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "über"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_failure_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="No space left on device"), atomic_write(path, "w"):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass


def test_a_folder_is_tried_without_leaving_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "not" / "there", "logs_root_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for place in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=f"logs_root_dir {place}: cannot be written"):
            check_folder(place, "logs_root_dir")


def test_a_full_disk_is_told_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    path.write_text("old")
    with (
        pytest.raises(
            UserError, match=r"it takes 1,000,000,000\.0 MB, [\d,.]+ MB are free\); the previous file is kept"
        ),
        atomic_write(path, size=10**15),
    ):
        raise OSError(28, "No space left on device")
    assert [file.name for file in tmp_path.iterdir()] == ["file.ckpt"]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_neither_replaced_nor_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    for name in ("target", "nowhere"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(name)
        with pytest.raises(UserError, match=f"is a link to {name}; give that file itself"), atomic_write(link):
            raise AssertionError("it was opened")
        assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "old" and not (tmp_path / "nowhere").exists()


def test_a_pipe_a_device_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"regular file|directory"):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"abc"


def test_a_limit_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_at_most(tmp_path / "file", 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_at_most(tmp_path / "file", 2)


def test_lines_are_read_one_at_a_time_and_no_line_is_without_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo \xff\ncut")
    assert list(lines_of(path)) == ["one\n", "two \ufffd\n", "cut"]
    path.write_bytes(b"one\n" + b"x" * (LONGEST_LINE + 1))
    lines = lines_of(path)
    assert next(lines) == "one\n"
    with pytest.raises(OSError, match="it has a line of more than 1,048,576 bytes"):
        next(lines)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        next(lines_of(tmp_path / "pipe"))


def test_what_is_appended_to_is_no_link_and_no_pipe(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for line in ("one\n", "two\n"):
        with open_to_append(path) as file:
            file.write(line)
    assert path.read_text(encoding="utf-8") == "one\ntwo\n"
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(OSError):
            open_to_append(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dangling", "link", "log", "pipe"]
