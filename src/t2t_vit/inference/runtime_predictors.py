"""Predictions of exported files by ONNX Runtime, OpenVINO, ExecuTorch, torch.export, AOTInductor and TensorRT.

All but TensorRT have a process of their own (`foreign_process`).
"""

import json
import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import ProgramError, UserError, printable
from t2t_vit.files import open_regular, parse_json, reason_of
from t2t_vit.formats.nested_graphs import NestedGraphError, check_onnx, check_openvino
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.inference.foreign_predictor import ForeignPredictor, require
from t2t_vit.inference.foreign_process import DEFAULT_LIMITS, Limits
from t2t_vit.inference.runner import INPUT, METADATA, OUTPUT
from t2t_vit.installing import not_installed

# Where the metadata stand, in JSON: in the rt_info of OpenVINO's file, as the answer of a method of ExecuTorch's
# program, and as an entry of AOTInductor's archive. TensorRT's file begins with them, after their length.
OPENVINO_SECTION = METADATA
# Also in the rt_info, and behind the last weight of the .bin: which export both are of.
OPENVINO_PAIR = "t2t_vit_export"
_PAIRED = re.compile(rf'<{OPENVINO_PAIR} value="(\w{{32}})"'.encode())
EXECUTORCH_METHOD = METADATA
AOTI_ENTRY = "extra/t2t_vit.json"
PT2_ENTRY = "t2t_vit.json"
_TENSORRT_LENGTH_BYTES = 4
_LONGEST_METADATA = 2**22
_PAUSE = 1e-4  # seconds between checks of a device's progress


class OnnxPredictor(ForeignPredictor):
    """An `.onnx` file on the CPU.

    Raises:
        UserError: ONNX Runtime is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        require(path, "onnxruntime", "ONNX Runtime", "export")
        _refuse_nested(path, check_onnx)
        super().__init__(path, "onnx", "ONNX Runtime", limits)


class OpenVinoPredictor(ForeignPredictor):
    """An `.xml` file with its `.bin` beside it, on the CPU.

    Args:
        bf16: compute in bfloat16 where the processor can, as OpenVINO does by default; otherwise in float32.

    Raises:
        UserError: OpenVINO is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS, *, bf16: bool = False) -> None:
        require(path, "openvino", "OpenVINO", "openvino")
        if not Path(path).with_suffix(".bin").is_file():
            raise UserError(f"{path}: its weights, {Path(path).with_suffix('.bin').name}, is not in the same folder")
        _refuse_nested(path, check_openvino)
        _check_pair(Path(path))
        super().__init__(path, "openvino", "OpenVINO", limits, bf16=bf16)


def openvino_mark(export: str) -> bytes:
    """What stands behind the last weight of the export that has these 32 letters."""
    return f"{OPENVINO_PAIR} {export}".encode()


def _check_pair(path: Path) -> None:
    """Refuse a graph with the weights of another export, which a killed one may leave; it has been parsed before.

    Another program that saves the model again leaves no mark on the weights.

    Raises:
        UserError: as above; ProgramError where one of the files cannot be read.
    """
    weights = path.with_suffix(".bin")
    length = len(openvino_mark("0" * 32))
    try:
        with open_regular(weights) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            mark = file.read(length)
        if not mark.startswith(openvino_mark("")):
            return
        with open_regular(path) as file:
            found = _PAIRED.search(file.read())
    except OSError as error:
        raise ProgramError(f"{error.filename or path}: cannot be read ({reason_of(error)})") from error
    if found is None or openvino_mark(found[1].decode()) != mark:
        raise UserError(
            f"{path}: was not exported together with {weights.name}: an export was interrupted or is under way, or one "
            "of them was copied; export it again"
        )


def _refuse_nested(path: str | Path, check: Callable[[str | Path], None]) -> None:
    """Raise ProgramError for a file that could loop, or whose graph cannot be read to tell."""
    try:
        check(path)
    except NestedGraphError as error:
        raise ProgramError(f"{path}: {error}") from error
    except (ValueError, OSError) as error:
        reason = printable(reason_of(error))
        raise ProgramError(
            f"{path}: cannot be read as a graph ({reason}); it may be truncated, damaged, or of another version"
        ) from error


class ExecuTorchPredictor(ForeignPredictor):
    """A `.pte` file, on the CPU.

    Raises:
        UserError: ExecuTorch is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        require(path, "executorch", "ExecuTorch", "executorch")
        if not _is_whole_executorch(path):
            raise UserError(f"{path}: is a truncated ExecuTorch program")
        super().__init__(path, "executorch", "ExecuTorch", limits)


def _is_whole_executorch(path: str | Path) -> bool:
    """Whether the extended header ("eh00" behind the flatbuffer's name) claims no more bytes than there are."""
    there = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        head = file.read(40)
    if head[8:12] != b"eh00" or there < 32:
        return there >= 32
    program = int.from_bytes(head[16:24], "little")
    segments = int.from_bytes(head[24:32], "little")
    size = int.from_bytes(head[32:40], "little") if int.from_bytes(head[12:16], "little") >= 32 else 0
    return there >= max(program, segments + size)


class Pt2Predictor(ForeignPredictor):
    """A program of torch.export, on the CPU. **It may do anything**, since `torch.export.load` unpickles and evaluates
    what is in the file, so it is loaded only where `load` was given `allow_native_code`.

    Raises:
        UserError: the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        metadata = _archived_metadata(path, f"extra/{PT2_ENTRY}")
        super().__init__(path, "pt2", "torch.export", limits, metadata=metadata)


class AotiPredictor(ForeignPredictor):
    """An AOTInductor package, on the CPU that it was compiled for. **It is native code**: it may do whatever a program
    may do, so it is loaded only where `load` was given `allow_native_code`.

    Raises:
        UserError: the file is damaged, was not exported by this package, or cannot run here.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        metadata = _archived_metadata(path, AOTI_ENTRY)
        super().__init__(path, "aoti", "AOTInductor on this machine", limits, metadata=metadata)


def _archived_metadata(path: str | Path, entry: str) -> Metadata:
    """What an archive of torch says of itself, read without running it."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.partition("/")[2] == entry]
            if archive.getinfo(name).file_size > _LONGEST_METADATA:
                raise ValueError("metadata without end")
            # torch's loaders verify no checksums, and it compresses nothing.
            if any(info.compress_type for info in archive.infolist()) or archive.testzip() is not None:
                raise ValueError("damaged entries")
            return Metadata.from_strings(parse_json(archive.read(name)))
    except (ValueError, zipfile.BadZipFile, OSError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: is a program that was not exported by t2t_vit, or is damaged") from error


class TensorRtPredictor(ExportedPredictor):
    """An engine, on the GPU that it was built for. **It is native code**: it is loaded only where `load` was given
    `allow_native_code`. It runs in this process, where its memory has no limit.

    The file is the length of the metadata (4 bytes, little end first), the metadata, the engine.

    Raises:
        UserError: TensorRT or a GPU is missing, the file is damaged, was not exported by this package, or is of another
            GPU or version of TensorRT.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        try:
            import tensorrt
        except ImportError as error:
            raise UserError(f"{path}: {not_installed('TensorRT', 'tensorrt')}") from error
        if not torch.cuda.is_available():
            raise UserError(f"{path}: is a TensorRT engine, which needs an NVIDIA GPU; there is none here")
        metadata, engine = _tensorrt_parts(path)
        super().__init__(path, metadata)
        self._limits = limits
        loaded: Any = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(engine)
        if loaded is None:
            raise UserError(
                f"{path}: holds an engine for another GPU or another version of TensorRT; export it again here"
            )
        self._engine, self._context = loaded, loaded.create_execution_context()

    def run(self, inputs: Tensor) -> Tensor:
        images = inputs.cuda().contiguous()
        logits = torch.empty(len(images), self.num_classes, device=images.device)
        self._context.set_input_shape(INPUT, tuple(images.shape))
        self._context.set_tensor_address(INPUT, images.data_ptr())
        self._context.set_tensor_address(OUTPUT, logits.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise UserError(f"{self.path}: TensorRT could not run the engine on {len(images)} images")
        self._wait(stream, len(images))
        return logits.cpu()

    def _wait(self, stream: torch.cuda.Stream, count: int) -> None:
        """For the device, in Python: signals are heard, and an engine without end is not waited for."""
        end = time.monotonic() + (self._limits.seconds or float("inf"))
        while not stream.query():
            if time.monotonic() > end:
                raise ProgramError(f"{self.path}: takes longer than {self._limits.seconds:g} s for {count} images")
            time.sleep(_PAUSE)


def tensorrt_head(metadata: Metadata) -> bytes:
    """What stands before the engine in the file."""
    text = json.dumps(metadata.to_strings()).encode()
    return len(text).to_bytes(_TENSORRT_LENGTH_BYTES, "little") + text


def _tensorrt_parts(path: str | Path) -> tuple[Metadata, bytes]:
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:_TENSORRT_LENGTH_BYTES], "little")
    if length > min(_LONGEST_METADATA, len(content)):
        raise UserError(f"{path}: is a damaged TensorRT engine")
    try:
        text = parse_json(content[_TENSORRT_LENGTH_BYTES : _TENSORRT_LENGTH_BYTES + length])
        return Metadata.from_strings(text), content[_TENSORRT_LENGTH_BYTES + length :]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit ({error})") from error
