"""Which images of a data set can be read: looked at before the first step, remembered for the next start."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import PIL
from numpy.typing import NDArray

from t2t_vit.data.budget import image_turn
from t2t_vit.data.decode import DecodeError, Mode, Reduction, has_heif
from t2t_vit.data.folder import Files
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import OutputError
from t2t_vit.files import atomic_write, chosen_cache, lines_of, parse_json, remove_leftovers

MOST_DECODED = 50_000  # images that are decoded whole, and
SECONDS = 60.0  # for how long
_KEPT = 20  # data sets that are remembered
_VERSION = 2
_ESCAPE = re.compile(rb"\\(x..|.)")


@dataclass
class Look:
    """What a look at N images found.

    sizes     (N, 2) int64, width and height as their headers say; 0 where the header cannot be read
    decoded   (N,) bool, which were decoded whole
    reasons   number -> why it cannot be read
    """

    sizes: NDArray[np.int64]
    decoded: NDArray[np.bool_]
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def at_none(cls, count: int) -> "Look":
        """Nothing seen yet of `count` images."""
        return cls(np.zeros((count, 2), np.int64), np.zeros(count, np.bool_))

    def bad(self) -> NDArray[np.bool_]:
        """(N,) bool, which cannot be read."""
        mask = np.zeros(len(self.decoded), np.bool_)
        mask[list(self.reasons)] = True
        return mask


def read_headers(files: Files, look: Look, numbers: Iterable[int], threads: int) -> None:
    """Enter into `look` the sizes of images, and which have no header that can be read."""

    def read(number: int) -> None:
        try:
            look.sizes[number] = files.size(number)
        except DecodeError as error:
            look.reasons[number] = str(error)

    in_threads(read, numbers, threads)


def read_sizes(images: ImageSet, reduction: Reduction) -> NDArray[np.int64]:
    """(N, 2) width and height of image files as they are read with `reduction`; 0 for what has no such header."""
    files = Files.of(images)
    assert files is not None
    look = Look.at_none(len(files))
    read_headers(files, look, range(len(files)), threads=1)
    return reduced_sizes(look.sizes, reduction)


def reduced_sizes(sizes: NDArray[np.int64], reduction: Reduction) -> NDArray[np.int64]:
    """(N, 2) width and height of images as they are read, from those in their headers."""
    result = sizes.copy()
    for number, (width, height) in enumerate(sizes.tolist()):
        factor = reduction((width, height)) if width else 1
        if factor > 1:
            result[number] = -(-width // factor), -(-height // factor)
    return result


def decode_some(read: Callable[[int], object], look: Look, numbers: Iterable[int], threads: int, until: float) -> None:
    """Decode images whole with `read`, one after the other as long as `monotonic` is before `until`."""

    def decode(number: int) -> None:
        try:
            with image_turn():
                read(number)
        except DecodeError as error:
            look.reasons[number] = str(error)
        look.decoded[number] = True

    in_threads(decode, (number for number in numbers if number not in look.reasons), threads, until)


def in_threads(work: Callable[[int], None], numbers: Iterable[int], threads: int, until: float = float("inf")) -> None:
    """`work` on each number, by several threads at once; what it raises is raised here, and a signal ends the wait."""
    waiting, lock, over = iter(numbers), threading.Lock(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not over.is_set() and monotonic() < until:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                work(number)
            except BaseException as error:
                failures.append(error)
                over.set()

    helpers = [threading.Thread(target=run, daemon=True) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    try:
        run()
        for helper in helpers:
            helper.join()
    except BaseException:
        over.set()
        raise
    if failures:
        raise failures[0]


def fingerprint(files: Files, mode: Mode, transform: TrainTransform, preprocessing: Preprocessing) -> str:
    """What tells one state of a data set from another: names, sizes and times of its files, and what reads them.

    Args:
        transform, preprocessing: whether memory suffices for a large image depends on how much smaller they let it be
            decoded.
    """
    reader = f"{_VERSION} {PIL.__version__} {has_heif()} {files.images.budget.max_pixels}"
    reader += f" {transform.image_size} {transform.min_crop} {preprocessing.image_size} {preprocessing.crop_pct}"
    digest = hashlib.blake2b(f"{reader} {mode} {len(files)}".encode(), digest_size=16)
    digest.update(os.fsencode(files.images.folder.resolve()))
    for number in range(len(files)):
        digest.update(files.relative(number))
        with suppress(OSError):
            status = files.path(number).stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def remembered(key: str, count: int) -> Look | None:
    """What was found of the data set with this fingerprint, or None."""
    try:
        with _place(key).open("rb") as file, np.load(file, allow_pickle=False) as held:
            reasons = {int(number): str(why) for number, why in parse_json(bytes(held["reasons"])).items()}
            look = Look(held["sizes"].astype(np.int64), held["decoded"].astype(np.bool_), reasons)
    except Exception:  # readers of damaged archives and arrays fail in many ways, tokenize.TokenError among them
        return None
    whole = look.sizes.shape == (count, 2) and look.decoded.shape == (count,)
    return look if whole and all(0 <= number < count for number in reasons) else None


def remember(key: str, look: Look) -> None:
    """Keep what was found for the next start; where that cannot be written, the next start looks again."""
    reasons = np.frombuffer(json.dumps(look.reasons).encode(), np.uint8)
    with suppress(OutputError, OSError):
        with atomic_write(_place(key)) as file:
            np.savez_compressed(file, sizes=look.sizes.astype(np.int32), decoded=look.decoded, reasons=reasons)
        held = sorted(_place(key).parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in held[:-_KEPT]:
            path.unlink(missing_ok=True)
        remove_leftovers(_place(key).parent)


def _place(key: str) -> Path:
    """The file of a data set.

    Raises:
        FileNotFoundError: the user has no home, and so no cache.
    """
    cache = chosen_cache()
    if cache is None:
        raise FileNotFoundError
    return cache / "looked_at" / f"{key}.npz"


def write_list(path: Path, files: Files) -> None:
    """One line an image, CLASS/PATH, with escapes for what is no text.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path, "w") as file:
        file.writelines(f"{_escaped(files.relative(number))}\n" for number in range(len(files)))


def read_list(path: Path) -> list[bytes] | None:
    """The images of a list that `write_list` wrote, or None where there is none that is whole."""
    try:
        return [_unescaped(line[:-1]) for line in lines_of(path) if line.endswith("\n")]
    except (OSError, ValueError):
        return None


def digest(names: Sequence[bytes]) -> int:
    """A number that tells one list of images from another."""
    state = hashlib.blake2b(digest_size=7)
    for name in names:
        state.update(len(name).to_bytes(4))
        state.update(name)
    return int.from_bytes(state.digest())


def _escaped(name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape").replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def _unescaped(line: str) -> bytes:
    def meant(escape: re.Match[bytes]) -> bytes:
        code = escape[1].decode()
        return bytes.fromhex(code[1:]) if code[0] == "x" else {"n": b"\n", "r": b"\r"}.get(code, b"\\")

    return _ESCAPE.sub(meant, line.encode())
