"""Predictions of exported files by ONNX Runtime, OpenVINO, ExecuTorch, AOTInductor and TensorRT.

Each runtime is imported when a predictor of its is made.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import parse_json
from t2t_vit.inference.exported import INPUT, OUTPUT, ExportedPredictor, Metadata, quiet
from t2t_vit.installing import not_installed

# Where the metadata stand, in JSON: in the rt_info of OpenVINO's file, as the answer of a method of ExecuTorch's
# program, and as an entry of AOTInductor's archive. TensorRT's file begins with them, after their length.
OPENVINO_SECTION = "t2t_vit"
EXECUTORCH_METHOD = "t2t_vit"
AOTI_ENTRY = "extra/t2t_vit.json"
PT2_ENTRY = "t2t_vit.json"
_TENSORRT_LENGTH_BYTES = 4
_LONGEST_METADATA = 2**22
_ONNX_ERRORS_ONLY = 3  # of its levels of log lines


class OnnxPredictor(ExportedPredictor):
    """An `.onnx` file on the CPU, on as many threads as PyTorch would take.

    Raises:
        UserError: ONNX Runtime is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: {not_installed('ONNX Runtime', 'export')}") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ONNX_ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = Metadata.from_strings(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        except Exception as error:  # the runtime's own classes, one for each of its status codes
            raise UserError(f"{path}: is an ONNX file that ONNX Runtime cannot load; it may be cut short") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        (logits,) = self._session.run([OUTPUT], {INPUT: inputs.numpy()})  # (B, num_classes)
        return torch.from_numpy(logits)


class OpenVinoPredictor(ExportedPredictor):
    """An `.xml` file with its `.bin` beside it, on the CPU, on as many threads as PyTorch would take.

    Args:
        bf16: compute in bfloat16 where the processor can, as OpenVINO does by default; otherwise in float32.

    Raises:
        UserError: OpenVINO is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path, *, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"{path}: {not_installed('OpenVINO', 'openvino')}") from error
        if not Path(path).with_suffix(".bin").is_file():
            raise UserError(f"{path}: its weights, {Path(path).with_suffix('.bin').name}, are missing beside it")
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            metadata = _openvino_metadata(model, path)
            self._model = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise UserError(f"{path}: is an OpenVINO model that OpenVINO cannot load; it may be cut short") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        answers = self._model({INPUT: inputs.numpy()})
        return torch.from_numpy(answers[0].copy())  # (B, num_classes)


def _openvino_metadata(model: Any, path: str | Path) -> Metadata:
    try:
        text = model.get_rt_info([OPENVINO_SECTION]).astype(str) if model.has_rt_info([OPENVINO_SECTION]) else "{}"
        return Metadata.from_strings(parse_json(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error


class ExecuTorchPredictor(ExportedPredictor):
    """A `.pte` file, on the CPU.

    Raises:
        UserError: ExecuTorch is missing, or the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with quiet():
                from executorch.runtime import Runtime, Verification
        except ImportError as error:
            raise UserError(f"{path}: {not_installed('ExecuTorch', 'executorch')}") from error
        content = Path(path).read_bytes()
        if not _is_whole_executorch(content):
            raise UserError(f"{path}: is an ExecuTorch program that is cut short")
        try:
            self._program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
            names = self._program.method_names
            self._method: Any = self._program.load_method("forward")
            text = self._program.load_method(EXECUTORCH_METHOD).execute([])[0] if EXECUTORCH_METHOD in names else "{}"
        except RuntimeError as error:
            raise UserError(f"{path}: is an ExecuTorch program that the runtime cannot load") from error
        try:
            metadata = Metadata.from_strings(parse_json(text))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        super().__init__(path, metadata)

    def run(self, inputs: Tensor) -> Tensor:
        (logits,) = self._method.execute([inputs])
        return torch.as_tensor(logits).clone()  # the next call writes into the same memory


def _is_whole_executorch(content: bytes) -> bool:
    """Whether the extended header ("eh00" behind the flatbuffer's name) claims no more bytes than there are."""
    if content[8:12] != b"eh00" or len(content) < 32:
        return len(content) >= 32
    program = int.from_bytes(content[16:24], "little")
    segments = int.from_bytes(content[24:32], "little")
    size = int.from_bytes(content[32:40], "little") if int.from_bytes(content[12:16], "little") >= 32 else 0
    return len(content) >= max(program, segments + size)


class Pt2Predictor(ExportedPredictor):
    """A program of torch.export, on the CPU. **It may do anything**, since `torch.export.load` unpickles and evaluates
    what is in the file, so it is loaded only where `load` was given `allow_native_code`.

    Raises:
        UserError: the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _archived_metadata(path, f"extra/{PT2_ENTRY}"))
        try:
            with quiet():
                self._model = torch.export.load(path).module()
        except Exception as error:  # of unpickling, of the graph's own checks
            raise UserError(
                f"{path}: is a damaged program of torch.export, or one of another version of torch"
            ) from error

    @torch.inference_mode()
    def run(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self._model(inputs)
        return answer


class AotiPredictor(ExportedPredictor):
    """An AOTInductor package, on the CPU that it was compiled for. **It is native code**: it may do whatever a program
    may do, so it is loaded only where `load` was given `allow_native_code`.

    Raises:
        UserError: the file is damaged, was not exported by this package, or cannot run here.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _archived_metadata(path, AOTI_ENTRY))
        try:
            with quiet():
                self._model: Any = torch._inductor.aoti_load_package(str(path))
        except Exception as error:  # of the loader, the linker or the code itself
            raise UserError(
                f"{path}: holds compiled code that cannot be loaded here; it runs on the kind of machine and with the "
                f"version of torch that it was compiled with"
            ) from error

    @torch.inference_mode()
    def run(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self._model(inputs)
        return answer.clone()  # the code may use its memory again


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
    `allow_native_code`. The file is the length of the metadata (4 bytes, little end first), the metadata, the engine.

    Raises:
        UserError: TensorRT or a GPU is missing, the file is damaged, was not exported by this package, or is of another
            GPU or version of TensorRT.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import tensorrt
        except ImportError as error:
            raise UserError(f"{path}: {not_installed('TensorRT', 'tensorrt')}") from error
        if not torch.cuda.is_available():
            raise UserError(f"{path}: is a TensorRT engine, which needs an NVIDIA GPU; there is none here")
        metadata, engine = _tensorrt_parts(path)
        super().__init__(path, metadata)
        loaded: Any = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(engine)
        if loaded is None:
            raise UserError(f"{path}: holds an engine of another GPU or of another version of TensorRT; export it here")
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
        stream.synchronize()
        return logits.cpu()


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
