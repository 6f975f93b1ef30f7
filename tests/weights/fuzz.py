"""Mutated checkpoint files. By hand: `python tests/weights/fuzz.py 10000` prints what came of so many."""

import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from t2t_vit.errors import UserError
from t2t_vit.weights import read_weights
from t2t_vit.weights.mindspore_file import write_mindspore_file
from t2t_vit.weights.show import shown

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mindspore"
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**10)


def small_tensors() -> dict[str, torch.Tensor]:
    names = ("cls_token", "pos_embed", "norm.weight", "norm.bias", "blocks.0.norm1.weight", "head.weight", "head.bias")
    shapes = ((1, 1, 8), (1, 5, 8), (8,), (8,), (8,), (3, 8), (3,))
    return {name: torch.full(shape, 0.5) for name, shape in zip(names, shapes, strict=True)}


def seeds(folder: Path) -> list[bytes]:
    """Whole small files of every kind."""
    tensors, path = small_tensors(), folder / "seed"
    own = {"format": "t2t_vit", "version": 1, "config": {"arch": "t2t_vit_7", "mean": [0.5]}, "classes": ["a", "b"]}
    contents = [{"state_dict": tensors, "epoch": 3}, {**own, "model": tensors, "ema": tensors, "metrics": {}}]
    found = []
    for content in contents:
        for as_zip in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=as_zip)
            found.append(path.read_bytes())
        torch.serialization.set_crc32_options(False)  # so that not every change is found by the checksum already
        torch.save(content, path)
        torch.serialization.set_crc32_options(True)
        found.append(path.read_bytes())
    save_file(tensors, path)
    found.append(path.read_bytes())
    write_mindspore_file(tensors, path)
    found.append(path.read_bytes())
    return found + [file.read_bytes() for file in sorted(FIXTURES.glob("*.ckpt"))]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """`data` after one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            value = rng.choice(INTERESTING) % 2 ** (8 * size)
            changed[at : at + size] = value.to_bytes(size, order)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + rng.randint(1, 64)]
        elif kind == 5:
            changed[at:at] = changed[at : at + rng.randint(1, 256)] * rng.randint(1, 4)
        else:
            other = rng.choice(others)
            begin = rng.randrange(len(other))
            changed[at : at + rng.randint(0, 64)] = other[begin : begin + rng.randint(1, 256)]
    return bytes(changed)


def outcomes(count: int, seed: int, folder: Path) -> Iterator[str]:
    """What became of each of `count` mutated files; anything but a UserError escapes."""
    rng, whole, path = random.Random(seed), seeds(folder), folder / "mutated.ckpt"
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(whole), whole, rng))
        try:
            weights = read_weights(path)
            for tensor in weights.tensors.values():
                tensor.clone()
            shown(path)
            outcome = f"read as {weights.kind}"
        except UserError as error:
            text = str(error)
            assert text.startswith(str(path)) and "\n" not in text and len(text) < 600, text
            outcome = "refused"
        yield outcome


def main() -> None:
    count = int(sys.argv[1])
    found: Counter[str] = Counter()
    slowest, start = 0.0, time.perf_counter()
    with TemporaryDirectory() as name:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for index, outcome in enumerate(outcomes(count, 20210614, Path(name))):
            found[outcome] += 1
            slowest, start = max(slowest, time.perf_counter() - start), time.perf_counter()
            if index == 20:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"{count:,} files: {dict(found)}; slowest {slowest:.2f} s; memory grew by {grown / 1024:.1f} MB\n")


if __name__ == "__main__":
    main()
