"""Images in archives, read one by one and never unpacked: names inside lead nowhere, and sizes are held to a limit."""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from t2t_vit.inference.item import Item, UnreadableError, is_image_name, stamp_of

ZIP, TAR, GZIPPED = (".zip",), (".tar",), (".tar.gz", ".tgz")
MOST_BYTES = 256 * 2**20  # of one image, encoded
_MOST_HEADER_BYTES = 2**20
_SKIP = 2**20


def is_archive(path: str) -> bool:
    """Whether the ending, in any case, is that of an archive whose images are read."""
    return path.lower().endswith(ZIP + TAR + GZIPPED)


def members(path: str) -> Iterator[Item]:
    """The images in an archive: `PATH/MEMBER`, of a .zip sorted, of a tar in its own order, which is read once.

    What cannot be read on is an item with a reason under the path of the archive itself, the last one.
    """
    try:
        if not Path(path).is_file():
            raise UnreadableError("it is not a regular file")
        yield from _zip_members(path) if path.lower().endswith(ZIP) else _tar_members(path)
    except Exception as error:  # broken archives make both readers raise almost anything
        yield Item(path, reason=f"the archive cannot be read further ({_sentence(error)})")


def _zip_members(path: str) -> Iterator[Item]:
    stamp = stamp_of(path)
    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if not entry.is_dir() and _is_image_member(entry.filename)]
        for entry in sorted(found, key=lambda entry: entry.filename):
            yield Item(os.path.join(path, "") + entry.filename, partial(_from_zip, archive, entry), stamp)  # noqa: PTH118


def _from_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.flag_bits & 1:
        raise UnreadableError("it is encrypted")
    _check_size(entry.file_size)
    try:
        return archive.read(entry)  # never more than the size it claims
    except Exception as error:
        raise UnreadableError(f"it cannot be read from the archive ({_sentence(error)})") from error


def _tar_members(path: str) -> Iterator[Item]:
    stamp = stamp_of(path)
    with gzip.open(path) if path.lower().endswith(GZIPPED) else Path(path).open("rb") as file:
        forward = _Forward(cast(BinaryIO, file))
        with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]  # all it needs
            while (entry := archive.next()) is not None:
                archive.members.clear()  # of a million, too
                if not entry.isdir() and _is_image_member(entry.name):
                    name = os.path.join(path, "") + entry.name  # noqa: PTH118
                    if entry.isreg() and not entry.issparse():
                        yield Item(name, partial(_from_tar, forward, entry), stamp)
                    else:
                        yield Item(name, reason="it is a link or a special file of the archive, which is not followed")


def _from_tar(file: "_Forward", entry: tarfile.TarInfo) -> bytes:
    _check_size(entry.size)
    file.seek(entry.offset_data)
    content = file.take(entry.size)
    if len(content) < entry.size:
        raise UnreadableError("the archive breaks off within it")
    return content


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise UnreadableError(f"it claims {size:,} bytes; images in archives may have {MOST_BYTES:,}")


def _is_image_member(name: str) -> bool:
    """As in folders; `__MACOSX/._x.png` and its like are hidden."""
    return is_image_name(name) and not any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


class _Forward:
    """A file for `tarfile` that only goes forward, so that a compressed one is never read twice, and hands out headers
    of no more than a megabyte: a few bytes of a hostile tar may ask for a header of gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._last = b""
        self._again = False

    def tell(self) -> int:
        return self._position - self._again

    def seek(self, position: int) -> int:
        """Forward, or back by the one byte by which tarfile looks whether a member is whole."""
        self._again = position == self._position - 1 and bool(self._last)
        if position < self._position and not self._again:
            raise tarfile.ReadError("its parts overlap")
        while self._position < position:
            if not self.take(min(_SKIP, position - self._position)):
                break
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError("it has a header of absurd size")
        return self.take(size)

    def take(self, size: int) -> bytes:
        again, self._again = (self._last if self._again else b""), False
        content = self._file.read(size - len(again)) if size > len(again) else b""
        self._position += len(content)
        self._last = content[-1:] or self._last
        return again + content
