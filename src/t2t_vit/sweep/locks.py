"""Who works on a sweep and on its trials, by locks that end with their processes; they are those of a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from t2t_vit.errors import OutputError
from t2t_vit.notes import silent
from t2t_vit.platforms import NoLocksError
from t2t_vit.training.run import has_lost_holder, is_held, open_lock, wait_for_lock, write_holder

_SECONDS = 60.0  # how long one look at a lock waits, which is repeated: a grid of thousands takes minutes to enter


@contextmanager
def alone(folder: Path, note: Callable[[str], None] = silent) -> Iterator[None]:
    """Within, no other process chooses trials in `folder`, or decides which sweep it holds; it is waited for.

    Where there are no locks, `note` gets a line, and nothing is held.

    Raises:
        OutputError: the folder cannot be written.
    """
    descriptor = open_lock(made(folder))
    try:
        _wait(descriptor, folder, note)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, folder: Path, note: Callable[[str], None]) -> None:
    while True:
        try:
            return wait_for_lock(descriptor, _SECONDS)
        except BlockingIOError:
            continue
        except NoLocksError as error:
            return note(
                f"{folder} cannot be locked, {error}: run one sweep in it at a time, from one machine, or two could "
                "train the same trial"
            )


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's runs are."""
    return folder / f"trial-{number:04d}"


def take_trial(folder: Path, number: int) -> int | None:
    """The lock of a trial, which this process has now, and which a training inherits; None where another has it.

    Another has it also where one of the trial's runs is alive: one that was continued by hand, or whose sweep was
    killed on Windows, where a lock is not inherited. Two trainings of one run would spoil it.

    Raises:
        OutputError: the trial's folder cannot be written.
    """
    place = made(trial_folder(folder, number))
    descriptor = open_lock(place)
    try:
        wait_for_lock(descriptor, 0)
        is_free = True
    except BlockingIOError:
        is_free = False
    except NoLocksError:
        is_free = not is_held(place)
    if not is_free or _has_living_run(place):
        os.close(descriptor)
        return None
    write_holder(descriptor, {"trial": number})
    return descriptor


def is_orphan(folder: Path, number: int) -> bool:
    """Whether the sweep has gone that took the trial, of which a training still holds the lock."""
    place = trial_folder(folder, number)
    return has_lost_holder(place) and _is_trained(place)


def held_trials(folder: Path) -> list[str]:
    """The names of the folders of trials that are being trained."""
    return [place.name for place in sorted(folder.glob("trial-*")) if _is_trained(place)]


def _is_trained(place: Path) -> bool:
    return is_held(place) or _has_living_run(place)


def _has_living_run(place: Path) -> bool:
    return any(map(is_held, place.glob("seed-*/logs/*")))


def made(folder: Path) -> Path:
    """The folder, which is there now.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror}); give another --folder") from error
    return folder
