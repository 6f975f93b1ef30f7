"""A folder as bad as they come: names of every kind, and one image in fifty broken in one of eight ways.

    python tests/hostile.py 10000 FOLDER

makes one of that many images; `infer` has to answer all others, and nothing else.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2t_vit.data.preprocessing import Preprocessing

EVERY = 50
NAMES = (
    "{}.png",
    "a b {}.png",
    "quo'te\"{}.jpg",
    "new\nline {}.PNG",
    "ümläut 写真 {}.JPEG",
    "\U0001f600{}.png",
    os.fsdecode(b"latin \xe9\xff") + "{}.png",
    "-dash{}.png",
    "$(x) ;|&{}.png",
    "tab\t\x1b[31m{}.jpg",
    "back\\slash\\n{}.png",
    "comma, %s %d{}.png",
)


def hostile_folder(folder: Path, count: int) -> tuple[set[str], set[str]]:
    """Fill `folder`; the paths of the good images and of the bad ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    good, bad = set(), set()
    for number in range(count):
        path = folder / NAMES[number % len(NAMES)].format(f"{number:06d}")
        kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path, format=kind)
        if number % EVERY == EVERY - 1:
            _break(path, number // EVERY)
        (bad if number % EVERY == EVERY - 1 else good).add(str(path))
    return good, bad


def _break(path: Path, way: int) -> None:
    content = path.read_bytes()
    path.unlink()
    match way % 8:
        case 0:
            path.write_bytes(content[: len(content) // 2])
        case 1:
            path.touch()
        case 2:
            path.write_text("no image", encoding="utf-8")
        case 3:
            os.mkfifo(path)
        case 4:
            path.symlink_to("nowhere")
        case 5:
            path.symlink_to("/dev/zero")
        case 6:
            Image.new("1", (20_000, 20_000)).save(path, format="PNG")  # a bomb of 50 kB
        case 7:
            path.write_bytes(content[:8] + b"\xff" * 200)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to eight mistakes: bytes changed, cut off, removed, repeated, or numbers that are absurd."""
    made = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if len(made) < 8:
            break
        # Most of what can go wrong is in the header.
        at = int(rng.integers(0, min(len(made), 200) if rng.random() < 0.6 else len(made)))
        count = int(rng.choice([1, 4, 100]))
        match rng.integers(0, 6):
            case 0:
                made[at] = rng.integers(0, 256)
            case 1:
                del made[at:]
            case 2:
                number = int(rng.choice([0, 1, 2**15, 2**16 - 1, 20_000, 2**31 - 1, 2**32 - 1]))
                made[at : at + 4] = number.to_bytes(4, "big" if rng.random() < 0.5 else "little")
            case 3:
                made[at:at] = rng.bytes(count)
            case 4:
                del made[at : at + count]
            case 5:
                made[at:at] = made[:count]
    return bytes(made)


class Deadly(Preprocessing):
    """Kills its process over an image that is 13 pixels wide, as a broken codec would."""

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        if image.width == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels(image)


class DeadlyOnce(Preprocessing):
    """Kills the first process that has an image, and leaves `marker`."""

    def __init__(self, marker: Path) -> None:
        super().__init__((8, 8))
        object.__setattr__(self, "marker", marker)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        marker: Path = self.marker  # type: ignore[attr-defined]
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels(image)


if __name__ == "__main__":
    _, broken = hostile_folder(Path(sys.argv[2]), int(sys.argv[1]))
    sys.stdout.write(f"{len(broken)} of {sys.argv[1]} images are broken\n")
