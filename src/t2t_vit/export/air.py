"""A network as an AIR file, by Huawei's own torchair on an Ascend machine. Untested: nobody here has such a machine."""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from t2t_vit.errors import UserError
from t2t_vit.export.form import graph_form
from t2t_vit.export.job import Job

UNTESTED = "it was written by torchair, which this package was never tested with"
_PACKAGES = ("torch_npu", "torchair")
_NAME = "export"


def air_refusal() -> str | None:
    """Why no AIR can be written on this machine, or None where torch_npu and torchair are installed and see an NPU.

    They are looked for, not imported: without CANN's libraries the import itself fails.
    """
    if all(find_spec(package) for package in _PACKAGES) and torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is not None and accelerator.type == "npu":
            return None
    return (
        "file_format AIR needs an Ascend machine with CANN, torch_npu and torchair, and this is none: nothing was "
        "written; use ONNX, which CANN's atc (--framework=5) converts there, or MINDIR"
    )


def write_air(job: Job, path: Path) -> None:
    """What `torchair.dynamo_export` makes of the network: AIR with the weights inside.

    Raises:
        UserError: torchair puts the weights beside the file, as it does beyond 2 GB.

    Source: torchair's manual, "dynamo_export"; its conversion has no unfold, so soft splits are slices.
    """
    import torchair

    module, example = graph_form(job).to("npu"), job.example().to("npu")
    with tempfile.TemporaryDirectory() as folder:
        torchair.dynamo_export(
            example, model=module, export_path=folder, export_name=_NAME, dynamic=job.metadata.batch == 0
        )
        if weights := sorted(Path(folder).glob("weight_*")):
            raise UserError(f"{path}: torchair put {len(weights)} files of weights beside it; use ONNX")
        shutil.copyfile(Path(folder) / f"{_NAME}.air", path)
