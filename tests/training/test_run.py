"""Which folders a run gets, who holds them, and which run a checkpoint belongs to."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.report.run_files import ROOT_KEYS
from t2t_vit.training.retention import CheckpointFolder
from t2t_vit.training.run import (
    LOCK,
    AliveError,
    CheckpointPlace,
    Folders,
    Run,
    RunMark,
    claim,
    enter,
    finish,
    is_finished,
    is_taken,
    mark_in,
    runs_of,
    write_record,
)

ROOTS = ["c", "b", "s", "l"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(base: str = "net", roots: list[str] = ROOTS, note: Any = print) -> Run:
    run = claim(roots, base, RunMark.new(base), note)
    run.keep()
    return run


def left(base: str = "net", roots: list[str] = ROOTS, files: tuple[str, ...] = ()) -> Run:
    """A run that ended in whatever way, with some checkpoints."""
    run = begun(base, roots)
    CheckpointFolder(run.folders.checkpoints, run.to_dict()).announce(files)
    for file in files:
        (run.folders.checkpoints / file).write_text("x")
    run.close()
    return run


def test_every_new_run_has_its_own_number_in_all_roots_together() -> None:
    names = [left().folders.name for _ in range(3)]
    assert names == ["net", "net-2", "net-3"]
    for root in ROOTS:
        assert sorted(folder.name for folder in Path(root).iterdir()) == names


@pytest.mark.parametrize("root", ROOTS)
def test_a_folder_that_holds_anything_is_taken_in_whichever_root_it_is(root: str) -> None:
    (Path(root) / "net").mkdir(parents=True)
    (Path(root) / "net/notes.txt").write_text("somebody's")
    (Path("b") / "net-2").mkdir(parents=True)  # empty: free
    assert begun().folders.name == "net-2"
    assert (Path(root) / "net/notes.txt").read_text() == "somebody's"


def test_what_is_no_folder_is_taken_too() -> None:
    Path("l").mkdir()
    Path("l/net").write_text("a file", encoding="utf-8")
    assert begun().folders.name == "net-2"


def test_a_name_that_ends_in_a_number_is_a_name() -> None:
    assert [left("net-2").folders.name for _ in range(2)] == ["net-2", "net-2-2"]
    assert [left("net").folders.name for _ in range(2)] == ["net", "net-3"]
    assert [run.folders.name for run in runs_of("net-2", "net-2", ROOTS)] == ["net-2-2", "net-2"]
    assert [run.folders.name for run in runs_of("net", "net", ROOTS)] == ["net-3", "net"]


def test_roots_may_be_one_folder() -> None:
    first, second = left(roots=["r"] * 4), left(roots=["r"] * 4)
    assert [first.folders.name, second.folders.name] == ["net", "net-2"]
    assert first.folders.best == Path("r/net/best")
    assert first.folders.distinct == [Path("r/net"), Path("r/net/best")]
    assert set(first.folders.roots.values()) == {"r"}
    assert [run.folders for run in runs_of("net", "net", ["r"] * 4)] == [second.folders, first.folders]


CLAIMS = """
import sys
from t2t_vit.training.run import *
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(claim(["c", "b", "s", "l"], "net", RunMark.new("net"), print).folders.name)
"""


def test_processes_that_begin_at_once_share_no_folder() -> None:
    line = [sys.executable, "-c", CLAIMS]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate(timeout=60)[0].split()]
    assert len(set(names)) == len(names) == 15
    for root in ROOTS:
        held = {folder.name: mark_in(folder) for folder in Path(root).iterdir()}
        assert held.keys() == set(names)
        assert len(set(held.values())) == 15


def test_a_run_that_never_began_leaves_nothing(here: Path) -> None:
    run = claim(["a/c", "a/b", "s", "l"], "net", RunMark.new("net"), print)
    run.close()
    assert list(here.iterdir()) == []


def test_what_was_put_there_in_the_meantime_stays() -> None:
    run = claim(ROOTS, "net", RunMark.new("net"), print)
    (run.folders.logs / "bad_images.txt").write_text("a.png\n")
    run.close()
    assert [path.name for path in Path().rglob("*") if path.is_file() and path.name != LOCK] == ["bad_images.txt"]


def test_a_run_that_is_alive_is_not_continued_and_its_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2t_vit.training.run.SECONDS_TO_DIE", 0.1)
    run = begun()
    with pytest.raises(AliveError, match=rf"c/net is running: process {os.getpid()} on \S+; .* begin a new"):
        enter(run.folders, run.mark, print)
    run.close()
    again = enter(run.folders, run.mark, print)
    assert again.mark == mark_in(run.folders.summary) == run.mark
    again.close()


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    program = (
        "from t2t_vit.training.run import *\n"
        "run = claim(['c', 'b', 's', 'l'], 'net', RunMark.new('net'), print); run.keep()\n"
        "print('here', flush=True); import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_a_killed_process_lets_go(holder: "subprocess.Popen[str]") -> None:
    (found,) = runs_of("net", "net", ROOTS)
    assert found.mark is not None
    with pytest.raises(AliveError, match=f"process {holder.pid} on"):
        enter(found.folders, found.mark, print)
    holder.kill()  # and nobody waits for it: its lock is given back with its memory, a moment later
    enter(found.folders, found.mark, print).close()


def test_a_child_that_is_left_behind_holds_nothing() -> None:
    run = begun()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads; the child does nothing
        child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        run.close()
        enter(run.folders, run.mark, print).close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_where_there_are_no_locks_it_is_said_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fcntl", None)
        run = begun(note=told.append)
    assert run.folders.name == "net"
    assert len(told) == 1 and "cannot be locked, this platform has none" in told[0]

    def refuses(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    enter(run.folders, run.mark, told.append)
    assert len(told) == 2 and "its file system has none (No locks available)" in told[1]
    assert begun(note=told.append).folders.name == "net-2"


def test_a_folder_that_cannot_be_made_is_one_sentence() -> None:
    Path("file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="logs_root_dir file: cannot be written"):
        claim(["c", "b", "s", "file"], "net", RunMark.new("net"), print)
    assert not Path("c").exists()


def test_what_is_sent_to_another_process_holds_no_lock() -> None:
    run = begun()
    copy = pickle.loads(pickle.dumps(run))
    assert (copy.lock, copy.mark, copy.folders) == (None, run.mark, run.folders)


def test_the_newest_unfinished_one_comes_first_and_the_finished_ones_say_so() -> None:
    runs = [left() for _ in range(3)]
    for run in runs:
        write_record(run, {"arch": "net"})
    finish(runs[1])
    found = runs_of("net", "net", ROOTS)
    assert [(run.folders.name, run.finished) for run in found] == [("net-3", False), ("net-2", True), ("net", False)]
    assert not is_finished(runs[1].folders, runs[0].mark)
    assert json.loads((runs[1].folders.logs / "run.json").read_text())["arch"] == "net"


def test_a_run_of_an_older_version_is_found_by_its_folder() -> None:
    folder = Path("c/net")
    folder.mkdir(parents=True)
    (folder / "net-1_4.ckpt").write_text("x")
    (folder / "checkpoints.json").write_text('["net-1_4.ckpt"]')
    (found,) = runs_of("net", "net", ROOTS)
    assert (found.mark, found.finished) == (None, False)
    Path("l/net").mkdir(parents=True)
    Path("l/net/report.html").write_text("", encoding="utf-8")
    assert runs_of("net", "net", ROOTS)[0].finished
    assert begun().folders.name == "net-2"
    assert [run.mark is None for run in runs_of("net", "net", ROOTS)] == [False, True]


def test_runs_that_share_some_roots_only_are_kept_apart() -> None:
    first, second = left(), left(roots=["other", "b", "s", "l"])
    assert second.folders.name == "net-2"
    found = runs_of("net", "net", ROOTS)
    assert [run.mark for run in found] == [second.mark, first.mark]
    assert [run.folders.checkpoints.resolve() for run in found] == [
        Path("other/net-2").resolve(),
        Path("c/net").resolve(),
    ]
    assert found[0].folders.logs == second.folders.logs


def home_of(
    path: Path, mark: RunMark | None, recorded: list[str], chosen: dict[str, str], elsewhere: list[str]
) -> Folders | None:
    place = CheckpointPlace(path, mark, recorded)
    return place.home("net", place.roots(chosen, elsewhere)[0])


def home(path: Path, run: Run, **chosen: str) -> Folders | None:
    place = CheckpointPlace(path, run.mark, ROOTS)
    return place.home(run.folders.name, place.roots(chosen, ROOTS)[0])


def test_each_folder_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left(files=("net-1_4.ckpt",))
    looked: list[Path] = []

    def mark_in_counted(folder: Path) -> RunMark | None:
        looked.append(folder.resolve())
        return mark_in(folder)

    monkeypatch.setattr("t2t_vit.training.run.mark_in", mark_in_counted)
    assert home(run.folders.checkpoints / "net-1_4.ckpt", run) == run.folders
    assert sorted(looked) == sorted(folder.resolve() for folder in run.folders.distinct)


def test_a_checkpoint_belongs_to_the_run_that_it_names() -> None:
    first, second = left(files=("net-1_4.ckpt",)), left(files=("net-1_4.ckpt",))
    shutil.copytree("c/net", "copy")
    Path("backup").mkdir()
    backup = shutil.copy("c/net/net-1_4.ckpt", "backup")
    for run in (first, second):
        assert home(run.folders.checkpoints / "net-1_4.ckpt", run) == run.folders
        assert home(Path(backup), run) == run.folders  # a copy elsewhere
    shutil.rmtree("c/net")
    shutil.copytree("c/net-2", "c/net")  # another run has its name now
    assert home(Path(backup), first) is None
    assert home(Path("c/net-2") / "net-1_4.ckpt", first) is None


def test_a_run_that_was_moved_goes_on_where_its_file_lies() -> None:
    run = left(files=("net-1_4.ckpt",))
    best = CheckpointFolder(run.folders.best / "ema", run.to_dict(), "ema")
    best.announce(["net-1_4.ckpt"])
    (best.folder / "net-1_4.ckpt").write_text("x")
    Path("new").mkdir()
    for root in ROOTS:
        shutil.move(root, f"new/{root}")
    Path("new/c/net").rename("new/c/renamed")
    moved = Folders.of([f"new/{root}" for root in ROOTS], "net")
    for file in (moved.best / "ema/net-1_4.ckpt",):
        assert home(file, run) == moved
    assert home(Path("new/c/renamed/net-1_4.ckpt"), run) == Folders.of([f"new/{root}" for root in ROOTS], "renamed")


@pytest.mark.parametrize("roots", [["r/c", "r/b", "r/s", "r/l"], ["r/c/exp", "r/b/exp", "r/s/exp", "r/l/exp"]])
def test_a_run_keeps_its_folders_by_their_mark(roots: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they share no parent, where one is a link to another disk, and from within a root."""
    run = left(roots=roots, files=("net-1_4.ckpt",))
    Path("disk").mkdir()
    logs = Path(shutil.move(roots[3], "disk/logs"))
    Path(roots[3]).symlink_to(here / logs)
    Path("r").rename("new")
    now = [root.replace("r/", "new/", 1) for root in roots]
    monkeypatch.chdir(now[0])
    found = home_of(Path("net/net-1_4.ckpt"), run.mark, roots, {}, ["c", "b", "s", "l"])
    assert found is not None
    assert [os.path.realpath(each) for each in (found.checkpoints, found.best, found.summary, found.logs)] == [
        *(str(here / root / "net") for root in now[:3]), str(here / "disk/logs/net")
    ]  # fmt: skip


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("roots", [ROOTS, ["c"]])
def test_a_copy_of_a_run_goes_on_beside_itself(roots: list[str], original: bool) -> None:
    """Also where only a part was copied; a part that was moved has its other folders where they were."""
    run = left(files=("net-1_4.ckpt",))
    for root in roots:
        shutil.copytree(root, f"copy/{root}")
        if not original:
            shutil.rmtree(root)
    found = home(Path("copy/c/net/net-1_4.ckpt"), run)
    others = ROOTS[1:] if not original and roots == ["c"] else [f"copy/{root}" for root in ROOTS[1:]]
    assert found == Folders.of(["copy/c", *others], "net")


def test_a_folder_that_was_taken_out_of_its_root_has_no_neighbours() -> None:
    run = left(files=("net-1_4.ckpt",))
    shutil.copytree("c/net", "backup/old")
    place = CheckpointPlace(Path("backup/old/net-1_4.ckpt"), run.mark, ROOTS)
    assert place.roots({}, ["w", "x", "y", "z"]) == (["backup", "x", "y", "z"], list(ROOT_KEYS[1:]))


def test_a_copy_that_lacks_a_folder_does_not_take_the_original_one() -> None:
    run = left(files=("net-1_4.ckpt",))
    for root in ROOTS[:3]:
        shutil.copytree(root, f"copy/{root}")
    there = [f"copy/{root}" for root in ROOTS]
    assert [found.folders for found in runs_of("net", "net", there)] == [Folders.of(there, "net")]
    shutil.rmtree("c")  # now it is the run that was moved
    (found,) = runs_of("net", "net", there)
    assert found.folders.logs.resolve() == run.folders.logs.resolve()


@pytest.mark.parametrize("place", ["backup", "deeper/c"])
def test_a_copy_alone_takes_no_folder_of_the_run_that_was_copied(place: str) -> None:
    run = left(files=("net-1_4.ckpt",))
    copied = Path(shutil.copytree("c", place), "net/net-1_4.ckpt")
    assert home(copied, run) in (None, Folders.of([place, "deeper/b", "deeper/s", "deeper/l"], "net"))
    shutil.rmtree("c")  # now it is the run that was moved
    assert home(copied, run) == Folders.of([place, *ROOTS[1:]], "net")


def test_a_root_of_the_command_line_wins() -> None:
    run = left(files=("net-1_4.ckpt",))
    file = run.folders.checkpoints / "net-1_4.ckpt"
    assert home(file, run, logs_root_dir="elsewhere") == Folders.of(["c", "b", "s", "elsewhere"], "net")
    left(roots=["x", "y", "z", "elsewhere"])
    assert home(file, run, logs_root_dir="elsewhere") is None  # another run's


@pytest.mark.parametrize("away", ["{}/victim", "../../victim", "../../../victim", "c/../../../victim"])
@pytest.mark.parametrize("version", ["new", "old"])
def test_a_folder_of_a_stranger_leads_nowhere_else(tmp_path: Path, away: str, version: str) -> None:
    """The whole of it is the stranger's: lock, lists, and the roots that its checkpoint names."""
    recorded = ["c", "b", away.format(tmp_path.parent), away.format(tmp_path.parent)]
    mark = RunMark.new("net") if version == "new" else None
    folder = Path("a/b/c/net")
    folder.mkdir(parents=True)
    (folder / "net-1_4.ckpt").write_text("x")
    CheckpointFolder(folder, mark and mark.to_dict()).announce(["net-1_4.ckpt"])
    if mark:
        (folder / ".run.lock").write_text(json.dumps({"run": mark.to_dict()}))
    ours = ["own/c", "own/b", "own/s", "own/l"]
    found = home_of(folder / "net-1_4.ckpt", mark, recorded, {}, ours)
    assert found == Folders.of(["a/b/c", "a/b/b", "own/s", "own/l"], "net")


def test_links_in_the_folder_of_a_stranger_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "diary").write_text("mine")
    run = left(files=("net-1_4.ckpt",))
    file = run.folders.checkpoints / "net-1_4.ckpt"
    (run.folders.best / "ema").symlink_to(victim)
    assert home(file, run) is None  # new folders then
    (run.folders.best / "ema").unlink()
    assert home(file, run) == run.folders
    lock = run.folders.logs / ".run.lock"
    lock.unlink()
    lock.symlink_to(victim / "diary")
    with pytest.raises(UserError, match=r"l/net/\.run\.lock: cannot be written"):
        enter(run.folders, run.mark, print)
    assert (victim / "diary").read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ["diary"]


def test_a_checkpoint_of_an_older_version_belongs_to_the_folder_that_lists_it() -> None:
    folder = Path("c/net")
    folder.mkdir(parents=True)
    for name in ("net-1_4.ckpt", "net-1_8.ckpt"):
        (folder / name).write_text("x")
    (folder / "checkpoints.json").write_text('["net-1_4.ckpt"]')
    assert home_of(folder / "net-1_4.ckpt", None, ROOTS, {}, ROOTS) == Folders.of(ROOTS, "net")
    assert home_of(folder / "net-1_8.ckpt", None, ROOTS, {}, ROOTS) is None
    Path("backup").mkdir()
    assert home_of(Path(shutil.copy(folder / "net-1_4.ckpt", "backup")), None, ROOTS, {}, ROOTS) is None


@pytest.mark.parametrize("text", ["", "[]", '{"run": 3}', '{"run": {"id": "", "name": "net"}}', "\xff"])
def test_a_file_that_says_nothing_makes_no_mark(here: Path, text: str) -> None:
    (here / LOCK).write_text(text, encoding="latin-1")
    assert mark_in(here) is None
    assert is_taken(here)
