"""What a run is: its identity, its folders, the lock on them while it lives, and whether it has come to its end.

A run has four folders of one name: checkpoints, best checkpoints, summary and logs. Each holds `.run.lock`, which says
whose the folder is; `run.json` in the logs and `checkpoints.json` beside the checkpoints say it as well, and so does
every checkpoint. A folder that holds anything is never given to another run.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from t2t_vit.errors import OutputError, UserError
from t2t_vit.files import check_folder, read_json, remove_leftovers, write_json
from t2t_vit.platforms import (
    BINARY,
    NOT_BLOCKING,
    NOT_FOLLOWING,
    NoLocksError,
    is_alive,
    lock,
    place_of,
    relative_path,
)
from t2t_vit.report.run_files import RECORD, REPORT, ROOT_KEYS
from t2t_vit.training.retention import LIST, CheckpointFolder

LOCK = ".run.lock"
SECONDS_TO_DIE = 3.0  # a killed process holds its lock until its memory is freed

Note = Callable[[str], None]


@dataclass(frozen=True)
class RunMark:
    """Which run it is: `id` is random, made once and kept however often the run is continued or moved.

    name is what its folders would be called if no other run had been there: ARCH and model_postfix. `--resume auto`
    goes by it.
    """

    id: str
    name: str

    @classmethod
    def new(cls, name: str) -> Self:
        """A run that never was before."""
        return cls(token_hex(8), name)

    @classmethod
    def of(cls, content: object) -> Self | None:
        """The mark in `content`, as a checkpoint or a file of a run holds it; None where there is none."""
        if not isinstance(content, Mapping):
            return None
        held, name = content.get("id"), content.get("name")
        return cls(held, name) if isinstance(held, str) and held and isinstance(name, str) else None

    def to_dict(self) -> dict[str, str]:
        """The inverse of `of`."""
        return {"id": self.id, "name": self.name}


@dataclass(frozen=True)
class Folders:
    """The four folders of a run."""

    checkpoints: Path
    best: Path
    summary: Path
    logs: Path

    @classmethod
    def of(cls, roots: Sequence[str | Path], name: str) -> Self:
        """A folder called `name` in each of the four roots, in the order of `ROOT_KEYS`.

        Roots may be one and the same; the best checkpoints then have a folder within the others'.
        """
        checkpoints, best, summary, logs = (Path(root) / name for root in roots)
        # Equal paths first: what a place is depends on the folders that exist, and another process may make some now.
        shared = checkpoints == best or place_of(checkpoints) == place_of(best)
        return cls(checkpoints, checkpoints / "best" if shared else best, summary, logs)

    @property
    def name(self) -> str:
        """What all four are called."""
        return self.logs.name

    @property
    def roots(self) -> dict[str, str]:
        """The configuration keys that lead to these folders."""
        best = self.best.parent.parent if self.best.parent == self.checkpoints else self.best.parent
        parents = (self.checkpoints.parent, best, self.summary.parent, self.logs.parent)
        return dict(zip(ROOT_KEYS, map(str, parents), strict=True))

    @property
    def distinct(self) -> list[Path]:
        """The folders, each once."""
        found: dict[tuple[int, int, str], Path] = {}
        for folder in (self.checkpoints, self.best, self.summary, self.logs):
            found.setdefault(place_of(folder), folder)
        return list(found.values())

    def sweep(self) -> None:
        """Remove half-written files that a kill left."""
        for folder in (*self.distinct, self.best / "ema"):
            remove_leftovers(folder)


def mark_in(folder: Path) -> RunMark | None:
    """Whose `folder` is; None where nothing in it says so."""
    for name in (LOCK, RECORD, LIST):
        if mark := RunMark.of(_json(folder / name).get("run")):
            return mark
    return None


def is_taken(folder: Path) -> bool:
    """Whether anything is there that a new run must not touch; an empty folder is free."""
    try:
        return any(folder.iterdir())
    except OSError:  # missing, a file, an unreadable folder, or a root that is not a folder
        with suppress(OSError):
            return folder.exists()
        return False


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def open_lock(folder: Path, *, fresh: bool = False) -> int:
    """The descriptor of the lock file in `folder`, which is there and not locked yet.

    Raises:
        FileExistsError: `fresh`, and there is one already.
        OutputError: it cannot be written.
    """
    path = folder / LOCK
    flags = os.O_RDWR | os.O_CREAT | BINARY | NOT_FOLLOWING | NOT_BLOCKING | (os.O_EXCL if fresh else 0)
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        raise
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror}); choose a folder that can be written")


def wait_for_lock(descriptor: int, seconds: float) -> None:
    """Lock what `open_lock` opened, as soon as nobody else has it.

    Raises:
        BlockingIOError: another process still has it after `seconds`.
        NoLocksError: there are no locks here.
        OSError: anything else, after `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return lock(descriptor)
        except OSError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.05)


def write_holder(descriptor: int, content: Mapping[str, Any]) -> None:
    """Write `content` into a lock file, and that this process is the one that works there."""
    text = json.dumps({**content, "process": os.getpid(), "host": socket.gethostname()}).encode()
    with suppress(OSError):  # a disk that is full; the lock itself holds
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text)


def is_held(folder: Path) -> bool:
    """Whether a living process holds the lock in `folder`; without locks, whether the file names one.

    Without locks, a process on another machine cannot be looked at, and counts as gone.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | BINARY | NOT_FOLLOWING | NOT_BLOCKING)
    except OSError:
        return False
    try:
        lock(descriptor)
    except NoLocksError:
        return _holder_is_alive(folder) is True
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def has_lost_holder(folder: Path) -> bool:
    """Whether the process that wrote itself into the lock file has gone; another may have inherited the lock.

    False where that cannot be known: of another machine, and on Windows.
    """
    return _holder_is_alive(folder) is False


def _holder_is_alive(folder: Path) -> bool | None:
    """Whether the process in the lock file, other than this one, lives; None where nobody knows."""
    held = _json(folder / LOCK)
    process = held.get("process")
    if not isinstance(process, int) or held.get("host") != socket.gethostname():
        return None
    return process != os.getpid() and is_alive(process)


class Lock:
    """`.run.lock` in each folder of a run, held until `release`, or until this process ends in whatever way.

    Where the platform or the file system has no locks, that is reported once, and nothing is held.
    """

    def __init__(self, note: Note) -> None:
        self._note, self._warned = note, False
        self._held: list[int] = []
        self._files: list[Path] = []
        self._made: list[Path] = []
        if hasattr(os, "register_at_fork"):  # a child that outlives this process must not keep the lock
            os.register_at_fork(after_in_child=self.release)

    def take(self, folder: Path, *, fresh: bool) -> None:
        """Lock one more folder, which is made where it is missing.

        Raises:
            FileExistsError: `fresh`, and the folder holds anything.
            AliveError: another process holds it.
            UserError: the folder cannot be written.
        """
        path = folder / LOCK
        try:
            self._make(folder)
        except OSError as error:
            raise _not_writable(path, error) from error
        if fresh and is_taken(folder):
            raise FileExistsError(path)
        descriptor = open_lock(folder, fresh=fresh)
        self._held.append(descriptor)
        if fresh:
            self._files.append(path)
        self._lock(descriptor, path)
        if fresh and any(file.name != LOCK for file in folder.iterdir()):  # files of a program without locks
            raise FileExistsError(path)

    def tell(self, content: Mapping[str, Any]) -> None:
        """Write into the files that are held whose they are and who holds them."""
        for descriptor in self._held:
            write_holder(descriptor, content)

    def release(self) -> None:
        """Let go; the files stay, since they say whose the folders are."""
        held, self._held = self._held, []
        for descriptor in held:
            with suppress(OSError):
                os.close(descriptor)

    def withdraw(self) -> None:
        """Let go, and take back the files and the empty folders that were made."""
        self.release()
        for path in reversed(self._files):
            with suppress(OSError):
                if not any(file.name != LOCK for file in path.parent.iterdir()):
                    path.unlink()
                    path.parent.rmdir()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._files, self._made = [], []

    def _make(self, folder: Path) -> None:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            with suppress(FileExistsError):
                place.mkdir()
                self._made.append(place)

    def _lock(self, descriptor: int, path: Path) -> None:
        try:
            wait_for_lock(descriptor, SECONDS_TO_DIE)
        except NoLocksError as error:
            self._warn(path, str(error))
        except OSError:
            raise AliveError(path.parent) from None

    def _warn(self, path: Path, why: str) -> None:
        if not self._warned:
            self._note(f"{path.parent} cannot be locked, {why}: two processes could continue this run at the same time")
        self._warned = True


class AliveError(UserError):
    """A run that another process works on: `who` it is."""

    def __init__(self, folder: Path) -> None:
        held = _json(folder / LOCK)
        self.who = f"process {held['process']} on {held.get('host')}" if "process" in held else "another process"
        super().__init__(
            f"the run in {folder} is running: {self.who}; wait for it or stop it, or leave --resume out to begin a "
            "new run"
        )


@dataclass
class Run:
    """A run in its folders; `lock` is None in all processes but the first, which speaks and writes for all."""

    mark: RunMark
    folders: Folders
    lock: Lock | None = field(default=None, repr=False)
    is_new: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the lock."""
        return {**self.__dict__, "lock": None}

    def to_dict(self) -> dict[str, str]:
        """What every checkpoint says of the run."""
        return {**self.mark.to_dict(), "folder": self.folders.name}

    def tell(self) -> None:
        """Write into the lock whose it is."""
        if self.lock is not None:
            known = [began for folder in self.folders.distinct if (began := _json(folder / LOCK).get("began"))]
            folders = [str(folder.absolute()) for folder in self._folders]
            began = known[0] if known else datetime.now().timestamp()
            self.lock.tell({"run": self.mark.to_dict(), "began": began, "folders": folders})

    def keep(self) -> None:
        """From here on the folders stay, however the run ends."""
        self.is_new = False

    def close(self) -> None:
        """Let go of the folders; those of a run that never began go with it."""
        if self.lock is not None:
            if self.is_new:
                self.lock.withdraw()
            self.lock.release()

    @property
    def _folders(self) -> tuple[Path, Path, Path, Path]:
        return self.folders.checkpoints, self.folders.best, self.folders.summary, self.folders.logs


def claim(roots: Sequence[str | Path], base: str, mark: RunMark, note: Note) -> Run:
    """Folders that nobody has used, for a new run: `base` in all four roots, or `base`-2, `base`-3, ...

    Whoever makes the lock first has the folder, so of several processes that begin at once each gets a number.

    Raises:
        UserError: a root cannot be written.
    """
    for root, key in zip(roots, ROOT_KEYS, strict=True):
        check_folder(Path(root), key)
    for number in count(1):
        folders = Folders.of(roots, base if number == 1 else f"{base}-{number}")
        if not any(map(is_taken, folders.distinct)) and (lock := _claimed(folders, note)):
            run = Run(mark, folders, lock, is_new=True)
            run.tell()
            return run
    raise AssertionError("unreachable: the numbers have no end")


def _claimed(folders: Folders, note: Note) -> Lock | None:
    lock = Lock(note)
    try:
        for folder in folders.distinct:
            lock.take(folder, fresh=True)
    except (FileExistsError, AliveError):  # another run was faster
        lock.withdraw()
        return None
    except BaseException:
        lock.withdraw()
        raise
    return lock


def enter(folders: Folders, mark: RunMark, note: Note) -> Run:
    """The run `mark` in its own folders, locked for this process.

    Raises:
        AliveError: another process works on it.
        UserError: a folder cannot be written.
    """
    lock = Lock(note)
    try:
        for folder in folders.distinct:
            lock.take(folder, fresh=False)
    except BaseException:
        lock.release()
        raise
    run = Run(mark, folders, lock)
    run.tell()
    return run


@dataclass(frozen=True)
class Found:
    """A run that its folders tell of; `mark` is None for one of an older version, which had no identity."""

    folders: Folders
    mark: RunMark | None
    began: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether it came to its end, report and all."""
        return is_finished(self.folders, self.mark)

    @property
    def number(self) -> int:
        """2 for NAME-2, 1 for NAME."""
        ending = self.folders.name.rpartition("-")[2]
        return int(ending) if self.mark and self.folders.name != self.mark.name and ending.isdigit() else 1


def runs_of(name: str, base: str, roots: Sequence[str | Path]) -> list[Found]:
    """The runs called `name` that these roots hold, the one that began last first.

    Looked at are the roots of the checkpoints and of the best ones. One of an older version is called by its folder,
    `base`.
    """
    marks: dict[str, RunMark] = {}
    for root in map(Path, roots[:2]):
        for folder in _subfolders(root):
            if (mark := mark_in(folder)) and mark.name == name:
                marks.setdefault(folder.name, mark)
    found = [_placed(folder, mark, roots) for folder, mark in marks.items()]
    old = Folders.of(roots, base)
    if base not in marks and not any(map(mark_in, old.distinct)) and _has_checkpoints(old):
        found.append(Found(old, None))
    return sorted(found, key=lambda run: (run.began, run.number), reverse=True)


def _has_checkpoints(folders: Folders) -> bool:
    return any(CheckpointFolder(folder).files() for folder in (folders.checkpoints, folders.best, folders.best / "ema"))


def _subfolders(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (folder for folder in sorted(root.iterdir()) if folder.is_dir())


def _placed(name: str, mark: RunMark, roots: Sequence[str | Path]) -> Found:
    """The folders of the run `mark` called `name`: those in `roots`, or those that it had where they are not there.

    What it had counts only where it is this run's own: a copy leaves the folders of the one that was copied alone.
    """
    folders = Folders.of(roots, name)
    kinds = ("checkpoints", "best", "summary", "logs")
    own = [kind for kind in kinds if mark_in(getattr(folders, kind)) == mark]
    held = _json(getattr(folders, own[0]) / LOCK) if own else {}
    recorded = held.get("folders")
    if isinstance(recorded, list) and len(recorded) == 4 and all(isinstance(path, str) for path in recorded):
        had = dict(zip(kinds, map(Path, recorded), strict=True))
        known = had[own[0]]
        is_copy = mark_in(known) == mark and place_of(known) != place_of(getattr(folders, own[0]))
        lost = [kind for kind in kinds if kind not in own and mark_in(had[kind]) == mark]
        folders = folders if is_copy else replace(folders, **{kind: had[kind] for kind in lost})
    began = held.get("began")
    return Found(folders, mark, float(began) if isinstance(began, int | float) else 0.0)


class CheckpointPlace:
    """Where a checkpoint lies: in a folder of its run, or somewhere else, as a copy, perhaps a stranger's.

    Each folder is looked into once.

    Args:
        mark: what the checkpoint says of its run; None: it is of an older version.
        recorded: the four roots that the checkpoint names.
    """

    def __init__(self, path: Path, mark: RunMark | None, recorded: Sequence[str]) -> None:
        self._path, self._mark, self._recorded = path, mark, recorded
        self._marks: dict[Path, RunMark | None] = {}
        self._folder = path.parent.parent if path.parent.name == "ema" else path.parent
        self._kind = self._kind_of_folder()
        is_below = self._folder.name == "best" and self._folder.parent.is_dir() and self._is_own(self._folder.parent)
        # The folder called as the run, also where the best ones have a folder within it.
        self._run_folder = self._folder.parent if is_below else self._folder
        self._place = 0 if is_below and self._kind is not None else self._kind  # in `ROOT_KEYS`, of the run's folder
        self._is_home = self._place is not None and place_of(self._run_folder.parent) == place_of(recorded[self._place])

    @property
    def is_within(self) -> bool:
        """Whether the checkpoint lies in a folder of its run."""
        return self._kind is not None

    @property
    def is_copy(self) -> bool:
        """Whether the run still has the folder of which the checkpoint's is a copy."""
        if self._place is None or self._is_home or self._mark is None:
            return False
        return self._is_own(Path(self._recorded[self._place], self._run_folder.name))

    def roots(self, chosen: Mapping[str, str], elsewhere: Sequence[str]) -> tuple[list[str], list[str]]:
        """The four roots that the run may write to, and the keys of those that are refused.

        The whole folder may be a stranger's, so that what stands in its files leads nowhere else: a root is that of
        the command line, or lies beside the root of this folder as it did when the run began, or is one in which the
        run has a folder; any other is refused for the one in `elsewhere`. Where this folder is a copy, and the run
        still has the one that was copied, the run's other folders belong to that one.

        Args:
            chosen: those of the command line, by their keys.
            elsewhere: the four roots for a file that lies outside of its run's folders.
        """
        if self._place is None:
            return [chosen.get(key, root) for key, root in zip(ROOT_KEYS, elsewhere, strict=True)], []
        folder, recorded = self._run_folder, self._recorded
        kind = self._place
        surroundings = os.path.realpath(folder.absolute().parent.parent)
        # A folder that was taken out of its root says nothing of what lies beside it.
        is_in_root = self._is_home or folder.absolute().parent.name == Path(recorded[kind]).name
        roots, refused = [], []
        for number, key in enumerate(ROOT_KEYS):
            if key in chosen:
                roots.append(chosen[key])
            elif number == kind:
                roots.append(str(folder.parent))
            else:
                beside = os.path.normpath(folder.parent / relative_path(recorded[number], recorded[kind]))
                if place_of(beside) == place_of(recorded[number]):
                    beside = recorded[number]  # as the checkpoint spells it
                places = [beside] if self.is_copy else [beside, recorded[number]]
                own = [root for root in places if self._mark and self._is_own(Path(root, folder.name))]
                is_near = Path(os.path.realpath(Path(beside) / folder.name)).is_relative_to(surroundings)
                if own or (is_near and is_in_root):
                    roots.append(own[0] if own else beside)
                else:
                    roots.append(elsewhere[number])
                    refused.append(key)
        return roots, refused

    def home(self, name: str, roots: Sequence[str]) -> Folders | None:
        """The folders that the run continues in, of the four `roots`; None where it needs new ones.

        That is where the file lies, if that folder is the run's: a run may have been moved, and its other folders are
        looked for beside it first. For a file that lies elsewhere, what it says of folders counts for nothing: the run
        continues in the `roots`, if it has folders there.

        Args:
            name: of the folders, as the checkpoint says.
        """
        folders = Folders.of(roots, self._run_folder.name if self.is_within else name)
        if not self.is_within and (self._mark is None or not self._is_own(folders.checkpoints)):
            return None
        if self._mark is None:
            return folders if self.is_within and not any(map(self._mark_in, folders.distinct)) else None
        if os.path.realpath(folders.best / "ema") != str(Path(os.path.realpath(folders.best), "ema")):
            return None  # a link or a junction, which leads out of the run's folders
        originals = {place_of(Path(root, self._run_folder.name)) for root in self._recorded}
        if self.is_copy and any(self._is_own(each) and place_of(each) in originals for each in folders.distinct):
            return None  # those of the run that was copied, which continues without this one
        is_free = all(self._is_own(folder) or not is_taken(folder) for folder in folders.distinct)
        return folders if is_free else None

    def _mark_in(self, folder: Path) -> RunMark | None:
        if folder not in self._marks:
            self._marks[folder] = mark_in(folder)
        return self._marks[folder]

    def _is_own(self, folder: Path) -> bool:
        return self._mark_in(folder) == self._mark

    def _kind_of_folder(self) -> int | None:
        """Where in `ROOT_KEYS` the folder of the run stands that the file lies in; None where it is not the run's."""
        beside = self._path.parent
        if not self._is_own(self._folder):
            return None
        if self._mark is None and self._path.name not in {file.name for file in CheckpointFolder(beside).files()}:
            return None
        if self._mark is None and not (beside / LIST).is_file():
            return None
        kind = _json(beside / LIST).get("kind")
        if kind is None:
            is_best = beside != self._folder or self._folder.parent.name == Path(self._recorded[1]).name
            kind = "best" if is_best else "checkpoints"
        return 0 if kind == "checkpoints" else 1


def write_record(run: Run, content: Mapping[str, Any]) -> None:
    """Write run.json into the run's logs: which run it is, that it is not finished, and `content`.

    Raises:
        UserError: the folder cannot be written.
    """
    record = {"run": run.mark.to_dict(), "name": run.folders.name, "finished": None, **content}
    write_json(run.folders.logs / RECORD, record)


def is_finished(folders: Folders, mark: RunMark | None) -> bool:
    """Whether the run `mark` came to its end in these folders; one of an older version did where its report is."""
    record = _json(folders.logs / RECORD)
    recorded = RunMark.of(record.get("run"))
    if recorded is None:
        return (folders.logs / REPORT).is_file()
    return recorded == mark and bool(record.get("finished"))


def finish(run: Run) -> None:
    """Write into run.json that the run came to its end.

    Raises:
        UserError: the folder cannot be written.
    """
    path = run.folders.logs / RECORD
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(path, {**_json(path), "run": run.mark.to_dict(), "finished": now})


def remove(folders: Folders) -> None:
    """Delete the folders of a run, and all that is in them."""
    for folder in folders.distinct:
        shutil.rmtree(folder, ignore_errors=True)
