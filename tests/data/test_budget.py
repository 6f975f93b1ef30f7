"""What may be decoded at a time, by threads, by processes, and after one was killed."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from t2t_vit.data.budget import MAX_PIXELS, PixelBudget, image_turn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memory files that lock")
LONG = 300.0  # seconds that nobody waits
HOLD = """
import pickle, sys
from t2t_vit.data.budget import image_turn
budget = pickle.loads(bytes.fromhex(sys.argv[1]))
with image_turn():
    budget.take(int(sys.argv[2]))
    print("held", flush=True)
    sys.stdin.read()
"""


class Crowd:
    """Threads that each take their share, and how many pixels were ever taken at a time."""

    def __init__(self, budget: PixelBudget, pixels: int, count: int) -> None:
        self.taken = self.most = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(budget, pixels)) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(LONG)
        assert self.taken == 0

    def _work(self, budget: PixelBudget, pixels: int) -> None:
        for _ in range(20):
            with image_turn():
                budget.take(pixels)
                with self._lock:
                    self.taken += pixels
                    self.most = max(self.most, self.taken)
                with self._lock:
                    self.taken -= pixels


def test_threads_share_it() -> None:
    assert Crowd(PixelBudget(), MAX_PIXELS, 4).most == MAX_PIXELS
    assert Crowd(PixelBudget(), MAX_PIXELS * 6 // 16, 4).most <= MAX_PIXELS
    assert Crowd(PixelBudget(2 * MAX_PIXELS), 2 * MAX_PIXELS, 4).most == 2 * MAX_PIXELS


def test_what_is_taken_is_given_back_at_the_end_of_the_turn_or_by_the_next_image() -> None:
    budget = PixelBudget()
    with image_turn():
        for _ in range(3):
            budget.take(MAX_PIXELS)  # a second one that waited for the first would wait for ever
        with image_turn():
            pass
        assert has_to_wait(budget)  # the turn within it has given nothing back
    assert can_take(budget)


def test_small_images_wait_for_nobody() -> None:
    budget = PixelBudget()
    with image_turn():
        budget.take(MAX_PIXELS)
        assert can_take(budget, MAX_PIXELS // 128)
        assert has_to_wait(budget, MAX_PIXELS // 16)


def taking(budget: PixelBudget, pixels: int) -> threading.Thread:
    """A thread that takes so much, and gives it back."""

    def take() -> None:
        with image_turn():
            budget.take(pixels)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def can_take(budget: PixelBudget, pixels: int = MAX_PIXELS) -> bool:
    thread = taking(budget, pixels)
    thread.join(LONG)
    return not thread.is_alive()


def has_to_wait(budget: PixelBudget, pixels: int = MAX_PIXELS) -> bool:
    thread = taking(budget, pixels)
    thread.join(0.2)
    return thread.is_alive()


@contextmanager
def holder(budget: PixelBudget, pixels: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that takes that and keeps it."""
    words = [sys.executable, "-c", HOLD, pickle.dumps(budget).hex(), str(pixels)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_processes_share_it_and_one_that_is_killed_gives_back_what_it_took() -> None:
    budget = PixelBudget()
    with holder(budget, MAX_PIXELS) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert has_to_wait(budget)
    assert can_take(budget)


def test_a_process_joins_that_of_another() -> None:
    first, second = PixelBudget(), PixelBudget()
    second.join(first.place)
    with image_turn():
        first.take(MAX_PIXELS)
        assert has_to_wait(second)
    second.join(None)
    assert can_take(second)


def test_without_memory_files_the_limit_of_an_image_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_place: object) -> None:
        raise OSError

    monkeypatch.setattr("t2t_vit.data.budget.MemoryFile", none)
    budget: PixelBudget = pickle.loads(pickle.dumps(PixelBudget(7)))
    assert (budget.max_pixels, budget.place) == (7, None)
    with image_turn():
        budget.take(10**12)


def test_where_nobody_can_lock_everybody_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("t2t_vit.data.budget.open_file_of", refused)
    budget = PixelBudget()
    with image_turn():
        budget.take(MAX_PIXELS)
        assert can_take(budget)
