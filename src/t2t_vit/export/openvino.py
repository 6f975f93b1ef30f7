"""A network as OpenVINO's intermediate representation."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from t2t_vit.export.job import Job
from t2t_vit.export.onnx import onnx_model
from t2t_vit.export.onnx_int8 import is_delicate
from t2t_vit.inference.exported import INPUT, quiet
from t2t_vit.inference.runtime_predictors import OPENVINO_SECTION

# OpenVINO takes some nodes of ONNX apart, into this product and the bias: convolutions, and the head.
_PRODUCT = "/WithoutBiases"


def write_openvino(job: Job, path: Path) -> None:
    """`path` (.xml) and its weights beside it (.bin), by way of ONNX.

    fp16 halves the weights, which OpenVINO widens again where the processor has no half precision; int8 is nncf's
    quantisation after training, on the job's calibration images.
    """
    import onnx
    import openvino

    halved = job.metadata.precision == "fp16"
    with tempfile.TemporaryDirectory() as folder, quiet():
        between = Path(folder) / "model.onnx"
        graph = onnx_model(job.in_float32())
        onnx.save(graph, between)
        model = openvino.convert_model(str(between))
        if job.metadata.precision == "int8":
            kept = [node for node in graph.graph.node if is_delicate(node)]
            delicate = [name for node in kept for name in (node.name, f"{node.name}{_PRODUCT}", *node.output)]
            model = _quantised(model, job, delicate)
        model.set_rt_info(json.dumps(job.metadata.to_strings()), [OPENVINO_SECTION])
        openvino.save_model(model, str(path), compress_to_fp16=halved)


def _quantised(model: Any, job: Job, kept: list[str]) -> Any:
    """As nncf does it for transformers, but for the operators named in `kept`, which stay float in ONNX, too."""
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
