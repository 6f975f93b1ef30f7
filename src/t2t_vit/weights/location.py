"""From what a user gives to the weights file: a file, a folder of the hub's layout, the name of a network, or bytes.

The authors' released weights of a network are fetched once into a cache.
"""

import errno
import hashlib
import os
import shutil
import socket
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from t2t_vit.errors import UserError
from t2t_vit.files import chosen_cache, failing_on_a_full_disk, working_folder
from t2t_vit.model.folder_config import CONFIG, FolderConfig, read_folder_config
from t2t_vit.platforms import replace
from t2t_vit.variants import RELEASES, VARIANTS
from t2t_vit.weights.names import authors_names

# In the order of preference.
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

# What weights may be given as. A file is read from where it stands to its end.
Source = str | Path | bytes | bytearray | memoryview | BinaryIO
GIVEN = "the given bytes"  # what messages call them

ADDRESS = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main/"
_TIMEOUT = 30.0  # seconds without a byte
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk, or the user's share of it


@contextmanager
def given_file(source: Source) -> Iterator[str | Path]:
    """The path that `source` is; of bytes or an open file, that of a file with the same content while the block runs.

    Raises:
        UserError: it is neither, or what the block raises, with `GIVEN` in the place of the file's name.
    """
    if isinstance(source, str | os.PathLike):
        yield source
        return
    with TemporaryDirectory(prefix="t2t_vit-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "given"
        try:
            content = BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"give weights as a path, as bytes or as a file open in mode 'rb', not as {type(source).__name__}"
            ) from error
        try:
            yield path
        except UserError as error:
            raise type(error)(str(error).replace(str(path), GIVEN)) from error


def find_file(path: str | Path) -> Path:
    """The file that `path` means; a file or folder of that name goes before a network of that name.

    Raises:
        UserError: the folder holds no weights, or a network's released weights cannot be had.
    """
    named = Path(path)
    if (str(path) in RELEASES or str(path) in VARIANTS) and not named.exists():
        return released_file(str(path))
    if _is_folder(named):
        return weights_file_in(named)
    return named


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except ValueError:  # a NUL in the name
        return False


def weights_file_in(folder: Path) -> Path:
    """The weights file in a folder.

    Raises:
        UserError: there is none.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    of_run = next((folder / name for name in ("best.ckpt", "last.ckpt") if (folder / name).is_file()), None)
    raise UserError(
        f"{folder}: is a folder without {WEIGHTS_FILES[0]} or {WEIGHTS_FILES[-1]}; give {of_run or 'a weights file'}"
    )


def folder_config(folder: Path) -> FolderConfig:
    """What `config.json` says, or nothing where there is none.

    Raises:
        UserError: it cannot be read; see `read_folder_config`.
    """
    return read_folder_config(folder / CONFIG) if (folder / CONFIG).exists() else FolderConfig()


@dataclass(frozen=True)
class Known:
    """What is known of a released file: its size in bytes, and the beginning of its SHA-384 in hexadecimal digits."""

    size: int
    sha384: str


# Of the other files nobody here has seen the bytes: they are checked by what they hold.
KNOWN = {"81.5_T2T_ViT_14.pth.tar": Known(86_212_823, "98c8ae06a1e9997f3e83ad2dfbac4998")}


def cache_folder() -> Path:
    """$T2T_VIT_CACHE, else the user's cache.

    Raises:
        UserError: the user has no home, and so no cache.
    """
    folder = chosen_cache()
    if folder is None:
        raise UserError("no home folder to store weights in; set T2T_VIT_CACHE to a folder")
    return folder


def released_file(name: str) -> Path:
    """The file of the authors' weights that `name` stands for, fetched if it is not in the cache yet.

    A fetched file is checked by size and digest where they are known, and in any case by what it holds: only then it
    gets its name.

    Raises:
        UserError: nothing is released under this name, there is no network, what came is not the file, or the cache
            cannot be written.
    """
    if name not in RELEASES:
        raise UserError(f"no weights are released for {name}; there are weights for {', '.join(RELEASES)}")
    release = RELEASES[name]
    path = cache_folder() / release.file
    if not path.exists():
        _fetch(ADDRESS + release.file, path, name, release.arch)
    return path


def _fetch(address: str, path: Path, name: str, arch: str) -> None:
    """Download into a folder beside `path`; the file moves to `path` when every check has passed."""
    from torch.hub import download_url_to_file

    with working_folder(path.parent, "fetch", instead="set T2T_VIT_CACHE to another folder") as folder:
        fresh = folder / path.name
        try:
            with _timeout(_TIMEOUT):
                download_url_to_file(address, str(fresh), progress=sys.stderr.isatty())
            _check(fresh)
            _check_content(fresh, arch)
            replace(fresh, path)
        except (OSError, ValueError, HTTPException) as error:
            if getattr(error, "errno", None) in _FULL:
                with failing_on_a_full_disk(path, folder):
                    raise
            reason = getattr(error, "reason", error)
            if isinstance(error, urllib.error.HTTPError):
                reason = error  # whose reason lacks the number
                error.close()
            raise UserError(
                f"{name}: {address} could not be downloaded ({reason}); download it in another way and save it as "
                f"{path}"
            ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Connections that are opened in the block give up after so many seconds without a byte; torch's wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check(path: Path) -> None:
    """Compare size and digest with what is known of the file; its bytes are on the disk afterwards."""
    known = KNOWN.get(path.name)
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
        if known is None:
            return
        size = path.stat().st_size
        if size != known.size:
            raise ValueError(f"the download has {size:,} bytes, but the file has {known.size:,}")
        if not hashlib.file_digest(file, "sha384").hexdigest().startswith(known.sha384):
            raise ValueError("the download has another digest than the file")


def _check_content(path: Path, arch: str) -> None:
    from t2t_vit.formats.torch_archive import read_torch_archive
    from t2t_vit.weights.description import describe
    from t2t_vit.weights.torch_file import foreign_copies

    try:
        tensors, *_ = foreign_copies(path, read_torch_archive(path)).values()
        describe(authors_names(tensors), path, arch)
    except UserError as error:
        raise ValueError(f"the download is not that file: {str(error).removeprefix(f'{path}: ')}") from error
