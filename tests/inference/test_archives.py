"""Images in archives, hostile ones included."""

import gzip
import io
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2t_vit.inference import archives
from t2t_vit.inference.archives import is_archive, members
from t2t_vit.inference.item import Item, UnreadableError


def tarred(path: Path, *entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            archive.addfile(entry, io.BytesIO(content))


def contents(items: Iterator[Item]) -> list[bytes | str]:
    """Of each item its content, or why there is none."""
    found: list[bytes | str] = []
    for item in items:
        try:
            found.append(item.reason or (item.content() if item.content else ""))
        except UnreadableError as error:
            found.append(str(error))
    return found


def test_endings() -> None:
    assert all(is_archive(name) for name in ("a.zip", "b/A.ZIP", "a.tar", "a.tar.gz", "a.TGZ"))
    assert not any(is_archive(name) for name in ("a.gz", "zip", "a.tar.png"))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
def test_members_that_count(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    names = ["b.png", "/etc/up.PNG", "../up.jpg", "é \n.png", ".hidden.png", "__MACOSX/._b.png", ".git/x.png", "notes"]
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("folder.png")
            for member in names:
                archive.writestr(member, member)
    else:
        tarred(path, *((member, member.encode()) for member in names))
    items = [(item.path.removeprefix(f"{path}/"), item.content()) for item in members(str(path)) if item.content]
    expected = [(member, member.encode()) for member in names[:4]]
    if name != "x.zip":
        assert items == expected
        return
    assert [member for member, _ in items] == sorted(member.removeprefix(f"{path}/") for member, _ in items)
    assert {content for _, content in items} == {content for _, content in expected}


def test_a_large_tar_is_read_once_and_in_any_step(tmp_path: Path) -> None:
    sizes = [0, 1, 511, 512, 513, 9_999, 512 * 20, 10_240 * 3 + 512, 3_000_000]
    for name in ("x.tar", "x.tgz"):
        tarred(tmp_path / name, *((f"{size}.png", b"x" * size) for size in sizes))
        assert [len(content) for content in contents_in_turn(tmp_path / name)] == sizes
        skipped = [item.path.rpartition("/")[2] for item in members(str(tmp_path / name))]  # nothing read between
        assert skipped == [f"{size}.png" for size in sizes]


def contents_in_turn(path: Path) -> list[bytes]:
    return [item.content() for item in members(str(path)) if item.content]


def test_links_and_devices_of_a_tar_are_not_followed(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
        tarred(tmp_path / "x.tar", ("a.png", b""), kind=kind)
        (item,) = members(str(tmp_path / "x.tar"))
        assert "these are not read" in item.reason


def test_what_breaks_off(tmp_path: Path) -> None:
    tarred(tmp_path / "x.tgz", *((f"{number}.png", bytes(range(256)) * 90) for number in range(9)))
    whole = (tmp_path / "x.tgz").read_bytes()
    for end in (0, 30, len(whole) // 2, len(whole) * 3 // 4):
        (tmp_path / "cut.tgz").write_bytes(whole[:end])
        *good, last = list(members(str(tmp_path / "cut.tgz")))
        assert last.path == str(tmp_path / "cut.tgz") and "rest of the archive cannot be read" in last.reason
        assert end < 100 or good
    for name in ("no.zip", "no.tar"):
        (tmp_path / name).write_bytes(b"no archive at all" * 99)
        (item,) = members(str(tmp_path / name))
        assert "rest of the archive cannot be read" in item.reason


def test_a_damaged_tar_gz_costs_the_image_and_what_follows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(2**20)
    tarred(tmp_path / "x.tgz", ("a.png", b"a"), ("b.png", noise), ("c.png", b"c"))
    whole = bytearray((tmp_path / "x.tgz").read_bytes())
    whole[len(whole) // 2 :] = bytes(len(whole) - len(whole) // 2)
    (tmp_path / "x.tgz").write_bytes(whole)
    first, damaged, rest = contents(members(str(tmp_path / "x.tgz")))
    assert first == b"a"
    assert "cannot be read from the archive" in str(damaged) and "rest of the archive cannot be read" in str(rest)


def test_encrypted_damaged_and_lying_members(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"content of a")
        archive.writestr("b.png", b"content of b")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"content of a", b"another one."))
    damaged, good = contents(members(str(path)))
    assert "Bad CRC-32" in str(damaged) and good == b"content of b"
    directory = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: directory + 8] + b"\x01" + whole[directory + 9 :])
    assert "encrypted" in str(contents(members(str(path)))[0])
    path.write_bytes(whole[: directory + 24] + b"\xff\xff\xff\x7f" + whole[directory + 28 :])
    assert "claims 2,147,483,647 bytes" in str(contents(members(str(path)))[0])


def central(name: str, size: int, packed: int, offset: int, crc: int = 0) -> bytes:
    """A record of a zip's directory."""
    fixed = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, packed, size, len(name), 0, 0, 0, 0, 0, offset
    )
    return fixed + name.encode()


def zipped(path: Path, body: bytes, *records: bytes) -> None:
    directory = b"".join(records)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(records), len(records), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)


def entry_of(name: str, content: bytes) -> bytes:
    """A local header of a zip and the content, deflated."""
    packed = zlib.compress(content)[2:-4]
    fixed = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(content), len(packed), len(content), len(name), 0
    )
    return fixed + name.encode() + packed


def test_entries_of_a_zip_that_lie_on_each_other_are_not_read(tmp_path: Path) -> None:
    path, content = tmp_path / "x.zip", b"content" * 99
    first, second = entry_of("0.png", content), entry_of("9.png", content)
    packed = len(first) - 35

    def record(name: str, packed: int, offset: int) -> bytes:
        return central(name, len(content), packed, offset, zlib.crc32(content))

    zipped(path, first + second, record("0.png", packed, 0), record("9.png", packed, len(first)))
    assert contents(members(str(path))) == [content, content]
    same = [record("0.png", packed, 0) for number in range(40)]
    zipped(path, first + second, *same, record("9.png", packed, len(first)))
    *shared, honest = contents(members(str(path)))
    assert len(shared) == 40 and honest == content
    assert sum("it overlaps another entry" in str(reason) for reason in shared) == 40
    zipped(path, first + second, record("0.png", packed + 1, 0), record("9.png", packed, len(first)))
    assert contents(members(str(path)))[1] == content


def test_of_a_large_member_that_is_no_image_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as large:
        for _ in range(64):
            large.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "it is not an image" in str(contents(members(str(path)))[0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_a_large_image_in_an_archive_is_read_whole(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1600, 1600)).save(file, "BMP")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", file.getvalue())
    assert contents(members(str(tmp_path / "x.zip"))) == [file.getvalue()]


def test_a_tar_that_unpacks_to_gigabytes_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_UNPACKED", 2**22)
    tarred(tmp_path / "x.tgz", ("a.png", b"a"), ("b.png", bytes(2**24)), ("c.png", b"c"))
    first, *others = contents(members(str(tmp_path / "x.tgz")))
    assert first == b"a" and len(others) == 2  # the large one, and the archive itself
    assert all("unpacks to more than 100 times its size" in str(reason) for reason in others)
    noise = np.random.default_rng(0).bytes(2**24)
    tarred(tmp_path / "y.tgz", ("b.png", noise), ("c.png", b"c"))
    assert contents(members(str(tmp_path / "y.tgz"))) == [noise, b"c"]


def test_headers_for_all_that_follows_are_bounded_together(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        assert archive.fileobj is not None
        for number in range(4):
            entry = tarfile.TarInfo(f"{number}.png")
            archive.fileobj.write(tarfile.TarInfo.create_pax_global_header({f"comment{number}": "x" * 400_000}))
            archive.offset = archive.fileobj.tell()
            archive.addfile(entry)
    *good, last = contents(members(str(tmp_path / "x.tar")))
    assert good == [b"", b""]
    assert "its header is too large" in str(last)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as bomb:
        for _ in range(300):
            bomb.write(bytes(2**20))
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    with gzip.open(tmp_path / "x.tgz", "wb", compresslevel=1) as archive:
        archive.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            archive.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "claims 314,572,800 bytes" in str(contents(members(str(tmp_path / "x.zip")))[0])
    (item,) = members(str(tmp_path / "x.tgz"))
    assert "header is too large" in item.reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
