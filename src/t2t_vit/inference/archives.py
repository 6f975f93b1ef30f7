"""Images in archives, read one by one and never unpacked: names inside lead nowhere, and sizes are held to a limit."""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

from t2t_vit.data.decode import DecodeError, check_header
from t2t_vit.errors import one_line
from t2t_vit.inference.item import Item, UnreadableError, is_image_name, stamp_of

ZIP, TAR, GZIPPED = (".zip",), (".tar",), (".tar.gz", ".tgz")
MOST_BYTES = 256 * 2**20  # of one image, encoded
_MOST_HEADER_BYTES = 2**20  # of one member, and of what a tar says of all that follow
_SKIP = 2**20
_LARGE = 2**22  # from this size on, the beginning of a member is checked before the rest is read
_LOCAL_HEADER_BYTES = 30  # of a zip's entry, without its name
# Most bytes that a compressed archive may unpack to: the larger of the two; images are already compressed.
_MOST_UNPACKED = 2**30
_MOST_TIMES_LARGER = 100


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
        yield Item(path, reason=f"the rest of the archive cannot be read ({one_line(error, 160)})")


def _zip_members(path: str) -> Iterator[Item]:
    stamp = stamp_of(path)
    with zipfile.ZipFile(path) as archive:
        overlapping = _overlapping(archive)
        found = [entry for entry in archive.infolist() if not entry.is_dir() and _is_image_member(entry.filename)]
        for entry in sorted(found, key=lambda entry: entry.filename):
            name = os.path.join(path, "") + entry.filename  # noqa: PTH118
            if entry.header_offset in overlapping:
                yield Item(name, reason="it overlaps another entry of the archive, which no archiver writes")
            else:
                yield Item(name, partial(_from_zip, archive, entry), stamp)


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """Where entries begin that reach into the next one, or are the same: a small archive may so hold any number."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    return {
        entry.header_offset
        for entry, following in pairwise(entries)
        if entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size > following.header_offset
    }


def _from_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.flag_bits & 1:
        raise UnreadableError("it is encrypted")
    _check_size(entry.file_size)
    try:
        if entry.file_size > _LARGE:
            with archive.open(entry) as file:
                check_header(cast(BinaryIO, file))
        return archive.read(entry)  # never more than its claimed size
    except DecodeError as error:
        reason = str(error)
    except Exception as error:
        reason = f"it cannot be read from the archive ({one_line(error, 160)})"
    raise UnreadableError(reason)  # here: the frames of the error hold what was read


def _tar_members(path: str) -> Iterator[Item]:
    stamp = stamp_of(path)
    with Path(path).open("rb") as packed:
        file = gzip.GzipFile(fileobj=packed) if path.lower().endswith(GZIPPED) else packed
        forward = _Forward(cast(BinaryIO, file), packed)
        with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]  # all it needs
            while (entry := archive.next()) is not None:
                archive.members.clear()  # of a million, too
                forward.begin_member()
                if sum(map(len, archive.pax_headers.values())) > _MOST_HEADER_BYTES:
                    raise tarfile.ReadError("its header is too large")
                if not entry.isdir() and _is_image_member(entry.name):
                    name = os.path.join(path, "") + entry.name  # noqa: PTH118
                    if entry.isreg() and not entry.issparse():
                        yield Item(name, partial(_from_tar, forward, entry), stamp)
                    else:
                        yield Item(name, reason="it is a link or a special file in the archive; these are not read")


def _from_tar(file: "_Forward", entry: tarfile.TarInfo) -> bytes:
    _check_size(entry.size)
    try:
        file.seek(entry.offset_data)
        content = file.take(entry.size)
        if len(content) == entry.size:
            return content
        reason = "the archive ends in the middle of it"
    except Exception as error:  # the compression is damaged
        reason = f"it cannot be read from the archive ({one_line(error, 160)})"
    raise UnreadableError(reason)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise UnreadableError(f"it claims {size:,} bytes; an image in an archive may have {MOST_BYTES:,}")


def _is_image_member(name: str) -> bool:
    """As in folders; `__MACOSX/._x.png` and its like are hidden."""
    return is_image_name(name) and not any(part.startswith(".") and part.strip(".") for part in name.split("/"))


class _Forward:
    """A file for `tarfile` that only goes forward, so that a compressed one is never read twice, and hands out headers
    of no more than a megabyte a member: a few bytes of a hostile tar may ask for a header of gigabytes. A compressed
    file may not become more than a gigabyte and a hundred times itself.

    Args:
        file: the archive.
        packed: the file that it comes from, compressed or not.
    """

    def __init__(self, file: BinaryIO, packed: BinaryIO) -> None:
        self._file, self._packed = file, packed
        self._header_bytes = 0
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

    def begin_member(self) -> None:
        """The headers of a member have been read; those of the next one follow."""
        self._header_bytes = 0

    def read(self, size: int = -1) -> bytes:
        self._header_bytes += size
        if size < 0 or self._header_bytes > _MOST_HEADER_BYTES:
            raise tarfile.ReadError("its header is too large")
        return self.take(size)

    def take(self, size: int) -> bytes:
        again, self._again = (self._last if self._again else b""), False
        content = self._file.read(size - len(again)) if size > len(again) else b""
        self._position += len(content)
        if self._position > max(_MOST_UNPACKED, _MOST_TIMES_LARGER * self._packed.tell()):
            raise tarfile.ReadError(f"it unpacks to more than {_MOST_TIMES_LARGER} times its size")
        self._last = content[-1:] or self._last
        return again + content
