"""A network in the formats that PyTorch and what builds on it write: PT2, AOTI, EXECUTORCH, AIR and SAFETENSORS."""

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from t2t_vit.errors import OutputError, UserError, printable
from t2t_vit.export.graph_form import graph_form
from t2t_vit.export.job import ExportJob
from t2t_vit.formats.safetensors_file import safetensors_parts
from t2t_vit.inference.exported import quiet
from t2t_vit.inference.runtime_predictors import AOTI_ENTRY, EXECUTORCH_METHOD, PT2_ENTRY

AIR_UNTESTED = "it was written by torchair, which has never been tested with this package"
_AIR_PACKAGES = ("torch_npu", "torchair")
_AIR_NAME = "export"


def write_pt2(job: ExportJob, path: Path) -> None:
    """`torch.export.save` with the metadata beside the graph; weights keep their names and values."""
    program = traced(job, by_slices=False)
    program._example_inputs = None  # they would be pickled
    archive = io.BytesIO()  # torch's writer of files ends the process where the disk is full
    with quiet():
        torch.export.save(program, archive, extra_files={PT2_ENTRY: json.dumps(job.metadata.to_strings())})
    path.write_bytes(archive.getbuffer())


def write_aoti(job: ExportJob, path: Path) -> None:
    """An AOTInductor package, compiled for this machine's CPU.

    Raises:
        OutputError: the folder for temporary files is full.
        UserError: there is no C++ compiler, or it fails.
    """
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    program: Any = traced(job)
    content = io.BytesIO()  # torch's writer of files ends the process where the disk is full
    try:
        with quiet(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=content)
    except InvalidCxxCompiler as error:
        raise UserError("file_format AOTI needs a working C++ compiler, such as g++; this machine has none") from error
    except CppCompileError as error:
        raise _compiler_error(str(error.output)) from error
    with zipfile.ZipFile(content, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{AOTI_ENTRY}", json.dumps(job.metadata.to_strings()))
    path.write_bytes(content.getbuffer())


def _compiler_error(output: str) -> UserError:
    """What stopped the compiler, which has written `output`: it works in the folder for temporary files."""
    lines = [line for line in map(str.strip, output.splitlines()) if line]
    if any(os.strerror(errno.ENOSPC) in line for line in lines):
        return OutputError(
            f"file_format AOTI: the folder for temporary files ({tempfile.gettempdir()}) is full; make room there, or "
            "set TMPDIR to another folder"
        )
    reason = next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")
    return UserError(f"file_format AOTI: the C++ compiler fails ({printable(reason)[:200]})")


def traced(job: ExportJob, *, by_slices: bool = True, centred_norms: bool = False) -> ExportedProgram:
    """The network's graph; arguments as of `graph_form`."""
    with quiet(), torch.no_grad():
        form = graph_form(job, by_slices=by_slices, centred_norms=centred_norms)
        return torch.export.export(form, (job.example(),), dynamic_shapes=job.dynamic_shapes(), strict=False)


def write_executorch(job: ExportJob, path: Path) -> None:
    """A `.pte` file of a fixed batch for XNNPACK, for phones and small machines.

    Its method `t2t_vit` answers with the metadata.
    """
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            traced(job, centred_norms=True),  # ExecuTorch's own loses flat windows: 6e-4 of the largest logit
            partitioner=[XnnpackPartitioner()],
            constant_methods={EXECUTORCH_METHOD: json.dumps(job.metadata.to_strings())},
        )
        path.write_bytes(lowered.to_executorch().buffer)


def air_refusal() -> str | None:
    """Why no AIR can be written on this machine, or None where torch_npu and torchair are installed and see an NPU.

    They are looked for, not imported: without CANN's libraries the import itself fails.
    """
    if all(find_spec(package) for package in _AIR_PACKAGES) and torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is not None and accelerator.type == "npu":
            return None
    return (
        "file_format AIR needs an Ascend machine with CANN, torch_npu and torchair; this machine is not one: nothing "
        "was written; use ONNX, which CANN's atc (--framework=5) converts there, or MINDIR"
    )


def write_air(job: ExportJob, path: Path) -> None:
    """What Huawei's `torchair.dynamo_export` makes of the network on an Ascend machine: AIR with the weights inside.

    Untested: nobody here has such a machine.

    Raises:
        UserError: torchair puts the weights beside the file, as it does beyond 2 GB.

    Source: torchair's manual, "dynamo_export"; its conversion has no unfold, so soft splits are slices.
    """
    import torchair

    module, example = graph_form(job).to("npu"), job.example().to("npu")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        torchair.dynamo_export(
            example, model=module, export_path=folder, export_name=_AIR_NAME, dynamic=job.metadata.batch == 0
        )
        if weights := sorted(Path(folder).glob("weight_*")):
            raise UserError(f"{path}: torchair wrote {len(weights)} weight files beside it; use ONNX")
        shutil.copyfile(Path(folder) / f"{_AIR_NAME}.air", path)


def write_safetensors(job: ExportJob, path: Path) -> None:
    """The state dict under the original's names, in float32 or half, and in the header configuration and classes."""
    state = job.model.state_dict()
    if job.metadata.precision == "fp16":
        state = {name: tensor.half() for name, tensor in state.items()}
    config = {
        **job.metadata.config,
        "disable_approximate_gelu": not job.model.approximate_gelu,
        "global_pool": job.model.global_pool,
        "interpolation": job.metadata.preprocessing.interpolation,
    }
    with path.open("wb") as file:
        file.writelines(safetensors_parts(state, {"config": config, "classes": job.metadata.classes}))
