"""A network as a program of torch.export, and as code that AOTInductor compiles of it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from t2t_vit.errors import UserError
from t2t_vit.export.form import graph_form
from t2t_vit.export.job import Job
from t2t_vit.inference.exported import quiet
from t2t_vit.inference.pt2_predictor import EXTRA
from t2t_vit.inference.runtime_predictors import AOTI_ENTRY


def write_pt2(job: Job, path: Path) -> None:
    """`torch.export.save` with the metadata beside the graph; weights keep their names and values."""
    program = traced(job, by_slices=False)
    program._example_inputs = None  # they would be pickled
    with quiet():
        torch.export.save(program, path, extra_files={EXTRA: json.dumps(job.metadata.to_strings())})


def write_aoti(job: Job, path: Path) -> None:
    """An AOTInductor package, compiled for this machine's CPU.

    Raises:
        UserError: there is no working C++ compiler.
    """
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    program: Any = traced(job)
    try:
        with quiet(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except (CppCompileError, InvalidCxxCompiler) as error:
        raise UserError("file_format AOTI needs a C++ compiler that works, as g++; there is none here") from error
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{AOTI_ENTRY}", json.dumps(job.metadata.to_strings()))


def traced(job: Job, *, by_slices: bool = True, centred_norms: bool = False) -> ExportedProgram:
    """The network's graph; arguments as of `graph_form`."""
    with quiet(), torch.no_grad():
        form = graph_form(job, by_slices=by_slices, centred_norms=centred_norms)
        return torch.export.export(form, (job.example(),), dynamic_shapes=job.dynamic_shapes(), strict=False)
