"""The authors' released weights by the name of their network, fetched once into a cache."""

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.variants import VARIANTS

ADDRESS = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main/"
_CHUNK = 2**20
_SECONDS = 30.0  # without a byte
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Known:
    """What is known of a released file; `sha384` is the beginning of its digest."""

    size: int
    sha384: str


KNOWN = {"81.5_T2T_ViT_14.pth.tar": Known(86_212_823, "98c8ae06a1e9997f3e83ad2dfbac4998")}


def cache_folder() -> Path:
    """$T2T_VIT_CACHE, else t2t_vit in $XDG_CACHE_HOME, else ~/.cache/t2t_vit."""
    if own := os.environ.get("T2T_VIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t_vit"


def released_file(arch: str) -> Path:
    """The file of the authors' weights of `arch`, fetched if it is not in the cache yet.

    A fetched file is checked by size and digest where they are known, and in any case by what it holds: only then it
    gets its name.

    Raises:
        UserError: nothing is released for `arch`, there is no network, or what came is not the file.
    """
    name = VARIANTS[arch].weights_file
    if name is None:
        offered = ", ".join(key for key, row in VARIANTS.items() if row.weights_file)
        raise UserError(f"no weights are released for {arch}, only for {offered}")
    path = cache_folder() / name
    if not path.exists():
        _fetch(ADDRESS + name, path, arch)
    return path


def _fetch(address: str, path: Path, arch: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer, atomic_write(fresh) as file:
            found = _copied(answer, file)
        _check(path.name, found)
        _check_content(fresh, arch)
        fresh.replace(path)
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            reason = error  # whose reason lacks the number
            error.close()
        raise UserError(
            f"{arch}: {address} could not be fetched ({reason}); fetch it by other means and put it at {path}"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _copied(answer: IO[bytes], file: IO[bytes]) -> Known:
    """Size and digest of what was copied."""
    digest, size = hashlib.sha384(), 0
    while chunk := answer.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
        file.write(chunk)
    return Known(size, digest.hexdigest())


def _check(name: str, found: Known) -> None:
    known = KNOWN.get(name)
    if known is None:
        return
    if found.size != known.size:
        raise ValueError(f"what came has {found.size:,} bytes, the file {known.size:,}")
    if not found.sha384.startswith(known.sha384):
        raise ValueError("what came has another digest than the file")


def _check_content(path: Path, arch: str) -> None:
    from t2t_vit.weights.describe import describe
    from t2t_vit.weights.read import read_weights

    try:
        describe(read_weights(path).tensors, path, arch)
    except UserError as error:
        raise ValueError(f"what came is not that file: {str(error).removeprefix(f'{path}: ')}") from error
