"""What a training run is: where it begins, its folders, its identity, and the record that it leaves."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2t_vit.bench.circumstances import cores, processor, versions
from t2t_vit.cli.batch_size import Wanted, wanted
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.scan import class_name
from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import atomic_write, check_folder, remove_leftovers
from t2t_vit.precision import Precision
from t2t_vit.report.run_files import EVALUATION, RECORD, REPORT
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import continued, resolve
from t2t_vit.settings.rules import validate_training
from t2t_vit.settings.schema import AUTO_BATCH, KEYS, SECTIONS, Config
from t2t_vit.training.checkpoint import Identity
from t2t_vit.training.distributed import Processes
from t2t_vit.training.journal import Console
from t2t_vit.training.limits import EarlyStopping, TimeLimit
from t2t_vit.training.retention import CheckpointFolder, step_of
from t2t_vit.training.state import State
from t2t_vit.weights import SavedRun, Weights, checkpoint_config, read_saved_run, read_weights


@dataclass(frozen=True)
class Folders:
    """The four folders of a run."""

    checkpoints: Path
    best: Path
    summary: Path
    logs: Path

    @classmethod
    def of(cls, config: Config) -> "Folders":
        """A folder of the run's name in each of the four roots."""
        roots = (config.ckpt_root_dir, config.best_ckpt_root_dir, config.summary_root_dir, config.logs_root_dir)
        return cls(*(Path(root) / config.run_name for root in roots))

    def check(self) -> None:
        """Refuse, before hours of work, folders that cannot be written.

        Raises:
            UserError: one of them cannot.
        """
        check_folder(self.checkpoints, "ckpt_root_dir")
        check_folder(self.best, "best_ckpt_root_dir")
        check_folder(self.summary, "summary_root_dir")
        check_folder(self.logs, "logs_root_dir")

    def sweep(self) -> None:
        """Remove halves of files that a kill left behind."""
        for folder in (self.checkpoints, self.best, self.best / "ema", self.summary, self.logs):
            remove_leftovers(folder)


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    metrics   what the run reports, by the name of the weights: the last evaluation, with `patience` the best one
    best      the best checkpoint, where the run came to its end
    """

    checkpoint: Path
    folders: Folders
    metrics: dict[str, Metrics]
    best: Path | None = None


@dataclass(frozen=True)
class Job:
    """What every part of a run needs to know; only the first process speaks and writes."""

    config: Config
    processes: Processes
    device: torch.device
    precision: Precision
    folders: Folders
    console: Console
    note: Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    given     keys that somebody chose, and that the data must not overrule
    batch     how batch_size auto was asked for, in a new run
    weights   to start from, in a new run
    saved     the run that goes on
    damaged   checkpoints of that run that cannot be read
    """

    config: Config
    notes: Sequence[str]
    given: Collection[str]
    batch: Wanted | None = None
    weights: Weights | None = None
    saved: SavedRun | None = None
    damaged: Sequence[Path] = ()


@dataclass
class Search:
    """The newest checkpoint of a run's folders that can be read, and those that cannot."""

    saved: SavedRun | None = None
    damaged: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def start_of(options: Options) -> Start:
    """Where the training that the user asks for begins.

    `resume FILE`, and `pretrained FILE` with `exclude_epoch_state False`, continue the run of FILE; `resume auto` the
    run that the folders hold, or begins one. Else `pretrained` gives weights to a new run.

    Raises:
        UserError: a file that cannot be read or holds no run, a configuration that cannot be.
    """
    chosen = str(options.said("resume", ""))
    continues = not options.said("exclude_epoch_state", True) and bool(options.checkpoint)
    if chosen not in ("", "auto") or (continues and not chosen):
        validate_training(Config(**{**options.file, **options.line}))  # type: ignore[arg-type]
        return _from(options, read_saved_run(chosen or options.checkpoint))
    weights = read_weights(options.checkpoint) if options.checkpoint else None
    config, notes = resolve(options, checkpoint_config(weights) if weights else None)
    batch = wanted(options) if config.batch_size == AUTO_BATCH else None
    fresh = Start(replace(config, resume=""), notes, options.line, batch, weights)
    if chosen != "auto":
        return fresh
    folders = Folders.of(config)
    search = newest(folders)
    if search.saved is not None:
        place = {"ckpt_root_dir": config.ckpt_root_dir, "model_postfix": config.model_postfix}
        return _from(options, search.saved, search, place)
    return replace(fresh, notes=[*notes, *search.notes, _nothing(folders, search)])


def newest(folders: Folders) -> Search:
    """Look at the checkpoints of the run, the best ones included, the newest first, until one can be read."""
    regular = CheckpointFolder(folders.checkpoints).files()
    best = [path for folder in (folders.best, folders.best / "ema") for path in CheckpointFolder(folder).files()]
    search = Search()
    reached = -1
    for path in sorted([*regular, *best], key=step_of, reverse=True):
        if step_of(path) < reached:
            break
        saved = _readable(path, search)
        if saved is None or (path not in regular and not _writes_to(saved, folders)):
            continue
        # Of one step there may be one from before its evaluation, a best one from after it, and the run's last.
        if search.saved is None or _further(saved) > _further(search.saved):
            search.saved, reached = saved, step_of(path)
    if regular and search.saved is not None and step_of(regular[-1]) < search.saved.step:
        # That the newest of its folder is damaged is reported also where a best one is newer.
        _readable(regular[-1], search)
    return search


def _from(
    options: Options, saved: SavedRun, search: Search | None = None, place: dict[str, str] | None = None
) -> Start:
    config, notes = continued(options, saved, place)
    found = search or Search()
    epoch = saved.content.get("epoch")
    told = f"continuing {saved.path}, epoch {epoch}, step {saved.step}"
    chosen = (KEYS.keys() - {"device_num"}) | options.line.keys()  # what was decided at the run's beginning stays so
    return Start(config, [*found.notes, told, *notes], chosen, saved=saved, damaged=found.damaged)


def _readable(path: Path, search: Search) -> SavedRun | None:
    try:
        return read_saved_run(path)
    except UserError as error:
        search.damaged.append(path)
        search.notes.append(f"skipped for another one: {error}")
        return None


def _writes_to(saved: SavedRun, folders: Folders) -> bool:
    """Whether the run of a best checkpoint is the one of these folders: runs of a name may share the best ones."""
    root = saved.content["config"].get("ckpt_root_dir")
    return isinstance(root, str) and Path(root).resolve() == folders.checkpoints.parent.resolve()


def _further(saved: SavedRun) -> tuple[bool, bool]:
    progress = saved.content["progress"]
    return progress.get("closed_at") == saved.step, progress.get("ended") is True


def _nothing(folders: Folders, search: Search) -> str:
    strangers = CheckpointFolder(folders.checkpoints).strangers()
    others = f" ({strangers} of earlier runs are left alone; --resume FILE continues one)" if strangers else ""
    kind = "no whole checkpoint" if search.damaged else "no checkpoint of a run to continue"
    return f"resume auto: {kind} in {folders.checkpoints}{others}: starting from the beginning"


def identity_of(
    config: Config,
    state: State,
    loader: TrainLoader,
    train: ImageSet,
    val: ImageSet,
    processes: Processes,
    files: Mapping[str, int],
) -> Identity:
    """What every checkpoint of the run says of it; `files` tells its lists of images from others."""
    data = {
        "train_images": len(train),
        "val_images": len(val),
        "images_per_update": loader.batch_size * config.accumulation_step * processes.count,
        "updates_per_epoch": state.updates_per_epoch,
        "processes": processes.count,
        **files,
    }
    return Identity(config.arch, config.to_dict(), train.classes, to_yaml(config), data)


def check_same_data(saved: SavedRun, now: Identity, note: Callable[[str], None]) -> None:
    """Compare the classes and images with those that the run was begun with.

    The run's own lists of images, where they are found, make them the same. Without them, other validation images
    change what is measured and no step; another number of training images changes every step that follows.

    Raises:
        UserError: classes or training images differ, so that its steps and epochs would mean something else.
    """
    _check_classes(saved, now.classes)
    then = saved.content["data"]
    if then.get("train_images") != now.data["train_images"]:
        raise UserError(
            f"the run of {saved.path} cannot be continued: it has {then.get('train_images')} training images, there "
            f"are {now.data['train_images']} now, and the list of those that it began with is not in its logs folder; "
            f"begin a new run with --pretrained {saved.path}"
        )
    if then.get("train_files", now.data.get("train_files")) != now.data.get("train_files"):
        note("the training images have other names than when the run began: from here on their order is another one")
    if then.get("val_images") != now.data["val_images"]:
        note(
            f"there were {then.get('val_images')} validation images when the run began, and there are "
            f"{now.data['val_images']} now: scores before and after are of different images"
        )
    elif then.get("val_files", now.data.get("val_files")) != now.data.get("val_files"):
        note("the validation images have other names than when the run began: scores may be of different images")
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


def nothing_left(config: Config, state: State, stopping: EarlyStopping, time: TimeLimit) -> str:
    """What to say of a run that is over."""
    if stopping.is_over:
        return f"the run is finished: {stopping.reason}; a larger --patience, or 0, goes on"
    if time.was_over:
        return f"the run is finished: {time.reason}; a larger --max_hours, or 0, goes on"
    if config.max_steps and state.step < state.epochs * state.updates_per_epoch:
        return (
            f"the run is finished: max_steps {config.max_steps} ended it at step {state.step}; --max_steps 0 goes on "
            f"to the end of epoch {state.epochs}"
        )
    return f"the run is finished: step {state.step}, epoch {state.epoch}; a larger --epochs goes on"


def _check_classes(saved: SavedRun, classes: Sequence[str]) -> None:
    for number, (old, new) in enumerate(zip_longest(saved.content["classes"], classes)):
        if old is None or new is None or class_name(old) != class_name(new):
            raise UserError(
                f"the run of {saved.path} cannot be continued: its class {number} is {_named(old)}, and now it is "
                f"{_named(new)}; bring the old classes back, or begin a new run with --pretrained {saved.path}"
            )


def _named(name: str | None) -> str:
    return "none" if name is None else repr(name)


def record_run(job: Job, model: nn.Module, state: State, train_images: ImageSet, val_images: ImageSet) -> None:
    """Write run.json into the run's logs; what an earlier run in the same folder found at its end goes.

    Raises:
        UserError: the folder cannot be written.
    """
    config, logs = job.config, job.folders.logs
    content = {
        "name": config.run_name,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "arch": config.arch,
        "image_size": list(getattr(model, "image_size", ())),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "dataset": config.dataset,
        "training_images": len(train_images),
        "validation_images": len(val_images),
        "classes": list(train_images.classes),
        "epochs": state.epochs,
        "last_step": state.last_step,
        "updates_per_epoch": state.updates_per_epoch,
        "hardware": hardware(job),
        "software": versions(),
        "configuration": configuration(config),
    }
    with atomic_write(logs / RECORD, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    for name in (EVALUATION, REPORT):
        (logs / name).unlink(missing_ok=True)


def hardware(job: Job) -> dict[str, Any]:
    """The devices, and the machine around them."""
    on_cuda = job.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(job.device) if on_cuda else processor(),
        "device_type": job.device.type,
        "processes": job.processes.count,
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "precision": job.precision.name,
    }


def configuration(config: Config) -> list[dict[str, Any]]:
    """The keys by section, with their values and defaults."""
    values = config.to_dict()
    return [
        {
            "section": section,
            "keys": [{"key": key, "value": values[key], "default": KEYS[key].default} for key in keys],
        }
        for section, keys in SECTIONS.items()
    ]
