"""A network as an ONNX file, and what is made of its ONNX graph: OpenVINO's representation and TensorRT's engine."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from t2t_vit.errors import UserError
from t2t_vit.export.graph_form import graph_form
from t2t_vit.export.job import ExportJob
from t2t_vit.inference.exported import quiet
from t2t_vit.inference.runner import INPUT, OUTPUT
from t2t_vit.inference.runtime_predictors import OPENVINO_PAIR, OPENVINO_SECTION, openvino_mark, tensorrt_head
from t2t_vit.version import __version__

# What torch 2.11 to 2.15 write by default, and the first one with GELU as one operator.
OPSET = 20
# Only products with a constant, whose weights have a range a channel. What is between two activations stays float:
# attention's two products cost few operations, and their errors go through the softmax.
_QUANTISED_OPERATORS = ["MatMul", "Gemm", "Conv"]
# OpenVINO takes some nodes of ONNX apart, into this product and the bias: convolutions, and the head.
_OPENVINO_PRODUCT = "/WithoutBiases"
# The batches that the engine is built for, where the batch is dynamic; TensorRT optimises for the middle one.
_TENSORRT_BATCHES = (1, 32, 256)
_TENSORRT_WORKSPACE = 4 * 2**30  # bytes


def write_onnx(job: ExportJob, path: Path) -> None:
    """One self-contained file: `images` (batch, C, H, W) -> float32 `logits` (batch, num_classes)."""
    import onnx

    model = onnx_model(job.in_float32() if job.metadata.precision == "int8" else job)
    if job.metadata.precision == "int8":
        model = quantised_onnx(model, job, path.parent)
    for node in model.graph.node:
        del node.metadata_props[:]  # where in this machine's files it came from
    for key, value in job.metadata.to_strings().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def onnx_model(job: ExportJob, *, by_slices: bool = True) -> Any:
    """The `onnx.ModelProto` of the job's network, in float32 or fp16; without metadata.

    Args:
        by_slices: as of `graph_form`; False is the plain export, kept to measure what the other form gains.
    """
    with quiet():
        program = torch.onnx.export(
            graph_form(job, by_slices=by_slices),
            (job.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=job.dynamic_shapes(),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.model.producer_name, program.model.producer_version = "t2t_vit", __version__
    return program.model_proto


def quantised_onnx(model: Any, job: ExportJob, workplace: Path) -> Any:
    """The `onnx.ModelProto`, statically quantised: int8 weights, a range a channel, and uint8 activations, in QDQ form.

    The tokens-to-token module stays in float: it is a twentieth of the operations, and its performers' exponentials
    turn small errors into large ones. So do the head and attention's products of two activations.

    Args:
        workplace: a folder for files of the quantiser's.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(dir=workplace) as folder, quiet():
        done = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            done,
            _CalibrationReader(job.calibration_inputs()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=_kept_nodes(model),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        return onnx.load(done)


def _kept_nodes(model: Any) -> list[str]:
    """Names of the nodes that stay float."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _QUANTISED_OPERATORS]
    return [node.name for node in nodes if node.input[1] not in constants or _is_delicate(node)]


def _is_delicate(node: Any) -> bool:
    """Whether an ONNX node, as the exporter marks it, lies in a part of the network that stays float."""
    scope = " ".join(entry.value for entry in node.metadata_props)
    return "tokens_to_token" in scope or "model.head" in scope


class _CalibrationReader:
    """Calibration images as ONNX Runtime asks for them, one after the other."""

    def __init__(self, images: Iterator[Any]) -> None:
        self._images = images

    def get_next(self) -> dict[str, Any] | None:
        images = next(self._images, None)
        return None if images is None else {INPUT: images.numpy()}


def write_openvino(job: ExportJob, path: Path) -> None:
    """`path` (.xml) and its weights beside it (.bin), by way of ONNX.

    Both say which export they are of: the .xml in its rt_info, the .bin behind the last weight, where no reader looks.

    fp16 halves the weights, which OpenVINO widens again where the processor has no half precision; int8 is nncf's
    quantisation after training, on the job's calibration images.
    """
    import onnx
    import openvino

    halved = job.metadata.precision == "fp16"
    # Drawn, not made of the network: calibrated on other images it is another export, whose files do not fit these.
    mark = token_hex(16)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, quiet():
        between = Path(folder) / "model.onnx"
        graph = onnx_model(job.in_float32())
        onnx.save(graph, between)
        model = openvino.convert_model(str(between))
        if job.metadata.precision == "int8":
            kept = [node for node in graph.graph.node if _is_delicate(node)]
            delicate = [name for node in kept for name in (node.name, f"{node.name}{_OPENVINO_PRODUCT}", *node.output)]
            model = _quantised_openvino(model, job, delicate)
        model.set_rt_info(json.dumps(job.metadata.to_strings()), [OPENVINO_SECTION])
        model.set_rt_info(mark, [OPENVINO_PAIR])
        openvino.save_model(model, str(path), compress_to_fp16=halved)
    with path.with_suffix(".bin").open("ab") as weights:
        weights.write(openvino_mark(mark))


def _quantised_openvino(model: Any, job: ExportJob, kept: list[str]) -> Any:
    """As nncf does it for transformers, except for the operators named in `kept`, which stay float in ONNX, too."""
    import nncf

    images = [{INPUT: one.numpy()} for one in job.calibration_inputs()]
    scope = nncf.IgnoredScope(names=kept, validate=False)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=scope,
        )


def write_tensorrt(job: ExportJob, path: Path) -> None:
    """An engine for the GPU of this machine, behind the metadata, by way of ONNX; untested until it has run on a GPU.

    fp16 takes TensorRT's strongly typed graph.

    Raises:
        UserError: TensorRT does not take the network.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_model(job).SerializeToString()):
        raise UserError(f"TensorRT does not take the network: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _TENSORRT_WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)
    if not job.metadata.batch:
        profile = builder.create_optimization_profile()
        sides = tuple(job.example().shape[1:])
        profile.set_shape(INPUT, *((batch, *sides) for batch in _TENSORRT_BATCHES))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError("TensorRT could not build an engine of the network on this GPU")
    path.write_bytes(tensorrt_head(job.metadata) + bytes(engine))
