"""Everything of a checkpoint of ours: what a run needs to go on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError
from t2t_vit.formats.torch_archive import read_torch_archive
from t2t_vit.weights.kind import file_kind
from t2t_vit.weights.torch_file import content_of

VERSION = 1
# What `training.checkpoint` writes for the sake of going on; a file of weights alone lacks them.
NEEDED = {
    "arch": str,
    "config": dict,
    "classes": list,
    "step": int,
    "model": dict,
    "optimizer": dict,
    "data": dict,
    "progress": dict,
    "metrics": dict,
    "best": dict,
    "followers": dict,
}


@dataclass(frozen=True)
class SavedRun:
    """A run at the moment that a checkpoint of ours was written.

    path      the file
    content   all of it, as `training.checkpoint.checkpoint_content` describes; tensors on the CPU
    """

    path: Path
    content: dict[str, Any] = field(repr=False)

    @property
    def step(self) -> int:
        """Updates made."""
        step: int = self.content["step"]
        return step


def read_run(path: str | Path) -> SavedRun:
    """The run that the checkpoint holds. Nothing in the file is run, every checksum in it is verified.

    Raises:
        UserError: no such file, damaged, foreign, or of a version that kept too little.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file; name the checkpoint whose run is to be continued")
    kind = file_kind(path)
    instead = f"--pretrained {path} with exclude_epoch_state True starts from its weights"
    if kind != "torch":
        raise UserError(f"{path}: is no checkpoint of a run of t2t_vit, so there is nothing to continue; {instead}")
    file = read_torch_archive(path)
    if type(file.content) is not dict or file.content.get("format") != "t2t_vit":
        raise UserError(f"{path}: holds weights but no run of t2t_vit to continue; {instead}")
    if type(version := file.content.get("version")) is not int or version > VERSION:
        raise UserError(f"{path}: was written by a newer version of t2t_vit; upgrade with pip install -U t2t_vit")
    lacking = [name for name, form in NEEDED.items() if type(file.content.get(name)) is not form]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}, so its run cannot be continued; {instead}")
    return SavedRun(Path(path), content_of(file))
