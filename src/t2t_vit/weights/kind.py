"""What a file is, by its content: names lie (`.ckpt` is MindSpore's ending too, `.pth.tar` is no tar)."""

import os
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

from t2t_vit.errors import UserError
from t2t_vit.files import open_regular, reason_of
from t2t_vit.formats.mindspore_ckpt import ENCRYPTION
from t2t_vit.formats.protobuf import read_varint
from t2t_vit.formats.zip_directory import read_directory
from t2t_vit.weights.location import find_file

Kind = Literal[
    "torch",
    "safetensors",
    "safetensors index",
    "torch index",
    "mindspore",
    "encrypted mindspore",
    "onnx",
    "pt2",
    "aoti",
    "openvino",
    "executorch",
    "tensorrt",
    "mindir",
    "text",
    "tar",
    "gzip",
    "unknown",
]

# TensorRT's engines have no place for metadata: ours stand before them, a length and then JSON.
TENSORRT_HEAD = b'{"producer": "t2t_vit'

_HEAD_BYTES = 1024
# Wire tags of the ModelProto fields that may follow ONNX's ir_version: producer_name, producer_version, domain,
# model_version, doc_string, graph, opset_import.
_ONNX_SECOND_TAGS = frozenset((0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42))


def file_kind(path: str | Path) -> Kind:
    """The kind of the file that `path` means (see `find_file`), from its first bytes.

    Raises:
        UserError: there is no such file, it is empty, or it cannot be read.
    """
    try:
        path = find_file(path)
        with open_regular(path) as file:
            head, size = file.read(_HEAD_BYTES), os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from error
    if not head:
        raise UserError(f"{path}: is empty; it was probably not written completely")
    if path.name.endswith(".safetensors.index.json") or (head.lstrip()[:1] == b"{" and b'"weight_map"' in head):
        return "torch index" if b'.bin"' in head and b'.safetensors"' not in head else "safetensors index"
    kind = _kind_of(head, size)
    return _archive_kind(path) if kind == "torch" and head.startswith(b"PK") else kind


def _archive_kind(path: Path) -> Kind:
    """Weights, a traced program, or compiled code: all three are zip archives of torch's."""
    try:
        with open_regular(path) as file:
            data = mmap(file.fileno(), 0, access=ACCESS_READ)  # unmapped when nobody looks at it, an error among them
        names = [name.partition("/")[2] for name in read_directory(memoryview(data))]
    except (OSError, ValueError):
        return "torch"  # its reader says what is wrong
    if "archive_format" not in names:
        return "torch"
    return "aoti" if any(name.startswith("data/aotinductor/") for name in names) else "pt2"


def _kind_of(head: bytes, size: int) -> Kind:
    # A zip, or the pickle stream of torch before 1.6.
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[:4] in ENCRYPTION:
        return "encrypted mindspore"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 0x40 and head[2] in _ONNX_SECOND_TAGS:
        return "onnx"
    if head[4:8] == b"ET12":
        return "executorch"
    if head[4 : 4 + len(TENSORRT_HEAD)] == TENSORRT_HEAD:
        return "tensorrt"
    if head.startswith(b"<?xml") and b"<net " in head:
        return "openvino"
    if head[0] == 0x0A and (protobuf := _mindspore_kind(head)):
        return protobuf
    return "text" if _is_text(head) else "unknown"


def _mindspore_kind(head: bytes) -> Kind | None:
    """MindSpore's two protobufs both begin with field 1 and a length.

    A checkpoint's first message holds a parameter's name and then its tensor; a MINDIR begins with a short version
    such as "0.1.1".
    """
    data = memoryview(head)
    try:
        length, at = read_varint(data, 1, len(head))
        if head[at : at + 1] == b"\n":
            name_length, name_at = read_varint(data, at + 1, len(head))
            name = head[name_at : name_at + name_length]
            if 0 < name_length < length and name.isascii() and name.decode("ascii").isprintable():
                return "mindspore"
    except ValueError:
        return None
    if 0 < length < 16 and head[at : at + length].replace(b".", b"").isdigit():
        return "mindir"
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode("utf-8") if len(head) == _HEAD_BYTES else head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The cut may lie inside a character.
        return error.start > len(head) - 8 and len(head) == _HEAD_BYTES
    return all(character.isprintable() or character.isspace() for character in text)
