"""Whether what is here now is what a stopped run was trained on."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch

from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import TrainLoader
from t2t_vit.errors import UserError
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.schema import Config
from t2t_vit.training.checkpoint import Identity
from t2t_vit.training.distributed import Processes
from t2t_vit.training.state import State
from t2t_vit.weights import SavedRun


def identity_of(
    config: Config, state: State, loader: TrainLoader, train: ImageSet, val: ImageSet, processes: Processes
) -> Identity:
    """What every checkpoint of the run says of it."""
    data = {
        "train_images": len(train),
        "val_images": len(val),
        "images_per_update": loader.batch_size * config.accumulation_step * processes.count,
        "updates_per_epoch": state.updates_per_epoch,
        "processes": processes.count,
    }
    return Identity(config.arch, config.to_dict(), train.classes, to_yaml(config), data)


def check_same_data(saved: SavedRun, now: Identity, note: Callable[[str], None]) -> None:
    """Hold the classes and counts against those that the run was begun with.

    Raises:
        UserError: they differ, so that its steps, epochs and best lists would mean something else.
    """
    _check_classes(saved, now.classes)
    then = saved.content["data"]
    for name, what in (("train_images", "training images"), ("val_images", "validation images")):
        if then.get(name) != now.data[name]:
            raise UserError(
                f"the run of {saved.path} cannot be continued: it has {then.get(name)} {what}, and there are "
                f"{now.data[name]} now; bring the old ones back, or begin a new run with --pretrained {saved.path}"
            )
    if then.get("images_per_update") != now.data["images_per_update"]:
        raise UserError(
            f"the run of {saved.path} cannot be continued: an update takes {then.get('images_per_update')} images, and "
            f"now {now.data['images_per_update']} (batch_size x processes x accumulation_step); make them the same"
        )
    if then.get("processes") != now.data["processes"]:
        note(
            f"{then.get('processes')} processes before, {now.data['processes']} now: each update has the same images, "
            "sums are rounded in another order"
        )


def agree(saved: SavedRun | None, processes: Processes, device: torch.device) -> None:
    """Make sure that all processes go on from the same step.

    Raises:
        UserError: they do not: several machines that do not share the folder.
    """
    if processes.count == 1:
        return
    step = -1 if saved is None else saved.step
    steps = torch.zeros(processes.count, dtype=torch.int64, device=device)
    steps[processes.rank] = step + 1
    if len(set(found := (processes.sum(steps) - 1).tolist())) > 1:
        told = ", ".join("none" if each < 0 else f"step {each}" for each in found)
        raise UserError(
            f"the processes found different checkpoints to continue ({told}); ckpt_root_dir has to be one folder that "
            "all machines share"
        )


def nothing_left(config: Config, state: State) -> str:
    """What to say of a run that is over."""
    if config.max_steps and state.step < state.epochs * state.updates_per_epoch:
        return (
            f"the run is finished: max_steps {config.max_steps} ended it at step {state.step}; --max_steps 0 goes on "
            f"to the end of epoch {state.epochs}"
        )
    return f"the run is finished: step {state.step}, epoch {state.epoch}; a larger --epochs goes on"


def _check_classes(saved: SavedRun, classes: Sequence[str]) -> None:
    for number, (old, new) in enumerate(zip_longest(saved.content["classes"], classes)):
        if old != new:
            raise UserError(
                f"the run of {saved.path} cannot be continued: its class {number} is {_named(old)}, and now it is "
                f"{_named(new)}; bring the old classes back, or begin a new run with --pretrained {saved.path}"
            )


def _named(name: str | None) -> str:
    return "none" if name is None else repr(name)
