"""A network as an ONNX file."""

from pathlib import Path
from typing import Any

import torch

from t2t_vit.export.form import graph_form
from t2t_vit.export.job import Job
from t2t_vit.inference.exported import INPUT, OUTPUT, quiet
from t2t_vit.version import __version__

# What torch 2.11 to 2.15 write by default, and the first one with GELU as one operator.
OPSET = 20


def write_onnx(job: Job, path: Path) -> None:
    """One self-contained file: `images` (batch, C, H, W) -> float32 `logits` (batch, num_classes)."""
    import onnx

    model = onnx_model(job.in_float32() if job.metadata.precision == "int8" else job)
    if job.metadata.precision == "int8":
        from t2t_vit.export.onnx_int8 import quantised

        model = quantised(model, job)
    for node in model.graph.node:
        del node.metadata_props[:]  # where in this machine's files it came from
    for key, value in job.metadata.to_strings().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def onnx_model(job: Job, *, by_slices: bool = True) -> Any:
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
