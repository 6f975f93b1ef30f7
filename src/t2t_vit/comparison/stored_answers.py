"""The command that measures a run again and keeps the answer to each image, for one that did not."""

from pathlib import Path
from shlex import quote

from t2t_vit.comparison.runs import ComparedRun
from t2t_vit.platforms import relative_path
from t2t_vit.report.run_files import ANSWERS
from t2t_vit.training.retention import CheckpointFolder, step_of


def how_to_store_answers(run: ComparedRun, *, to_all: bool = False) -> str:
    """A sentence with the command, or what to do where the checkpoint is gone that the run was measured by.

    to_all: to all validation images, also where the run was measured on a part of them.
    """
    checkpoint = _checkpoint_of(run)
    if checkpoint is None:
        return (
            f"{run.name}: the checkpoint of its last evaluation was not found, so its answers cannot be made again; "
            "to pair it, train it again."
        )
    level = run.settings["amp_level"]
    words = ["t2t-vit", "eval", "--pretrained", str(checkpoint), "--amp_level", str(level)]
    words += [*(["--val_num_samples", "-1"] if to_all else []), "--answers", str(run.files.folder / ANSWERS)]
    what = "replaces the answers by answers to all validation images" if to_all else "adds the answers"
    command = " ".join(map(quote, words))
    return f"{run.name}: this command {what}; run it in the folder that the run was started in: {command}"


def _checkpoint_of(run: ComparedRun) -> Path | None:
    """The file that holds the weights of the run's last look at its images."""
    step, logs, settings = run.files.evaluation.get("step"), run.files.folder, run.settings
    folders = []
    for key in ("ckpt_root_dir", "best_ckpt_root_dir"):
        beside = logs.parent / relative_path(settings[key], settings["logs_root_dir"])  # where the run was moved
        for root in (beside, Path(settings[key])):
            folders += [root / logs.name, root / logs.name / "best", root / logs.name / "ema"]
    files = (file for folder in folders for file in CheckpointFolder(folder).files())
    found = next((file for file in files if step_of(file) == step), None)
    return None if found is None else Path(relative_path(found, Path.cwd()))
