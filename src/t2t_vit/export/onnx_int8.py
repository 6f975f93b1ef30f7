"""Static quantisation of an ONNX graph: int8 weights and activations in the matrix products of the backbone."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2t_vit.export.job import Job
from t2t_vit.inference.exported import INPUT, quiet

# Only products with a constant, whose weights have a range a channel. What is between two activations stays float:
# attention's two products cost few operations, and their errors go through the softmax.
_QUANTISED = ["MatMul", "Gemm", "Conv"]


def quantised(model: Any, job: Job) -> Any:
    """The `onnx.ModelProto` with quantised weights (int8, a range a channel) and activations (uint8), in QDQ form.

    The tokens-to-token module stays in float: it is a twentieth of the operations, and its performers' exponentials
    turn small errors into large ones. So do the head and attention's products of two activations.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, quiet():
        done = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            done,
            _Reader(job.calibration_inputs()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=_kept(model),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        return onnx.load(done)


def _kept(model: Any) -> list[str]:
    """Names of the nodes that stay float."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _QUANTISED]
    return [node.name for node in nodes if node.input[1] not in constants or is_delicate(node)]


def is_delicate(node: Any) -> bool:
    """Whether an ONNX node, as the exporter marks it, lies in a part of the network that stays float."""
    scope = " ".join(entry.value for entry in node.metadata_props)
    return "tokens_to_token" in scope or "model.head" in scope


class _Reader:
    """Calibration images as ONNX Runtime asks for them, one after the other."""

    def __init__(self, images: Iterator[Any]) -> None:
        self._images = images

    def get_next(self) -> dict[str, Any] | None:
        images = next(self._images, None)
        return None if images is None else {INPUT: images.numpy()}
