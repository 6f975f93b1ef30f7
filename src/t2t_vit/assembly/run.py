"""Which run a training command works on, what its checkpoints say of it, and the record that it leaves."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import nn

from t2t_vit.assembly.batch_size import Wanted, wanted
from t2t_vit.assembly.scratch import prepared
from t2t_vit.bench.circumstances import processor, versions
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import TrainLoader
from t2t_vit.data.scan import class_name
from t2t_vit.errors import CheckpointError, UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.files import led_to, through_link
from t2t_vit.platforms import usable_cores
from t2t_vit.precision import Precision
from t2t_vit.report.run_files import ANSWERS, EVALUATION, RECORD, REPORT, ROOT_KEYS
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import continued, resolve
from t2t_vit.settings.rules import validate_training
from t2t_vit.settings.schema import AUTO_BATCH, KEYS, SECTIONS, Config
from t2t_vit.settings.values import Value
from t2t_vit.training.checkpoint import Identity, recall
from t2t_vit.training.distributed import Meeting, Processes
from t2t_vit.training.journal import Console
from t2t_vit.training.limits import EarlyStopping, TimeLimit
from t2t_vit.training.retention import CheckpointFolder, step_of
from t2t_vit.training.run import (
    CheckpointPlace,
    Folders,
    Found,
    Run,
    RunMark,
    enter,
    mark_in,
    runs_of,
    write_record,
)
from t2t_vit.training.state import State
from t2t_vit.weights import SavedRun, Weights, checkpoint_config, read_saved_run, read_weights

# Keys with which a finished run continues, if they ask for more.
LENGTH_KEYS = ("epochs", "max_steps", "cooldown_epochs", "patience", "max_hours")
# Where a run writes, and to whom it reports: nothing that a checkpoint from elsewhere decides.
OWN_KEYS = (*ROOT_KEYS, "tracker")


@dataclass(frozen=True)
class Result:
    """What a run left.

    metrics   what the run reports, by the name of the weights: the last evaluation, with `patience` the best one
    best      the best checkpoint, where there is one
    images    a folder with images of the data set; empty where they are no files
    """

    checkpoint: Path
    folders: Folders
    metrics: dict[str, Metrics]
    best: Path | None = None
    images: str = ""


@dataclass(frozen=True)
class Job:
    """What every part of a run needs to know; only the first process speaks and writes."""

    config: Config
    processes: Processes
    device: torch.device
    precision: Precision
    run: Run
    console: Console
    note: Callable[[str], None]

    @property
    def folders(self) -> Folders:
        """The run's four folders."""
        return self.run.folders


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    given     keys that somebody chose, and that the data must not overrule
    batch     how batch_size auto was asked for, in a new run
    weights   to start from, in a new run
    run       the run to continue, in its folders, which are locked; None: a new one, which claims its own
    name      what the run is called, apart from its number
    mark      which run it is, where it is one that was before
    saved     what it continues from; None: a new run
    damaged   checkpoints of that run that cannot be read
    over      why there is nothing left to do
    replaces  folders that the run takes the place of
    """

    config: Config
    notes: Sequence[str]
    given: Collection[str]
    name: str
    batch: Wanted | None = None
    weights: Weights | None = None
    run: Run | None = None
    mark: RunMark | None = None
    saved: SavedRun | None = None
    damaged: Sequence[Path] = ()
    over: str = ""
    replaces: Folders | None = None

    def close(self) -> None:
        """Let go of the run."""
        if self.run is not None:
            self.run.close()


@dataclass
class Search:
    """The newest checkpoint of a run's folders that can be read, and those that cannot."""

    saved: SavedRun | None = None
    damaged: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """The run that `--resume auto` or a checkpoint stands for, as the first process decided.

    run    None: a new one; without folders of its own yet where `mark` is there
    path   the checkpoint to continue from; None: from the beginning
    keys   of the command line or the defaults, that are not taken from the checkpoint, since it lies elsewhere
    """

    run: Run | None = None
    mark: RunMark | None = None
    path: Path | None = None
    damaged: Sequence[Path] = ()
    notes: Sequence[str] = ()
    over: str = ""
    keys: Mapping[str, Value] = field(default_factory=dict)


class Chooser:
    """Finds the run that a command continues. What the first process read of it, it need not read again.

    Args:
        locks: whether the run is locked for this process, which is to train it.
    """

    def __init__(self, options: Options, *, locks: bool) -> None:
        self._options, self._locks = options, locks
        self.saved: SavedRun | None = None

    def by_file(self, path: Path) -> Choice:
        """The run of a checkpoint.

        Raises:
            UserError: the file cannot be read, or its run is alive.
        """
        saved = self.saved = through_link(path, lambda: read_saved_run(led_to(path) if path.exists() else path))
        path = saved.path
        held, _ = continued(self._options, saved)
        mark = RunMark.of(saved.content.get("run"))
        chosen = {key: str(value) for key, value in self._options.line.items() if key in ROOT_KEYS}
        recorded, name = recorded_place(saved.content)
        own = {key: self._options.said(key, KEYS[key].default) for key in OWN_KEYS}
        place = CheckpointPlace(path, mark, recorded)
        roots, refused = place.roots(chosen, [str(own[key]) for key in ROOT_KEYS])
        if place.is_within:
            keys: dict[str, Value] = dict(zip(ROOT_KEYS, roots, strict=True))
            notes = _not_followed(path, recorded, {key: keys[key] for key in refused})
        else:
            keys, notes = own, [_elsewhere(path, saved.content, own)]
        if held.run_name != _base_of(saved.content):  # it was given another name, so it is another run from here on
            return Choice(mark=RunMark.new(held.run_name), path=path, notes=notes, keys=keys)
        folders = place.home(name, roots)
        if folders is None:
            there = mark is not None and mark_in(Path(recorded[0]) / name) == mark
            new = RunMark.new(held.run_name) if mark is None or there else mark
            return Choice(mark=new, path=path, notes=notes, keys=keys)
        choice = self._entered(folders, mark or RunMark.new(held.run_name), path=path)
        return replace(choice, notes=[*notes, *choice.notes], keys=keys)

    def auto(self, config: Config, name: str) -> Choice:
        """The newest run called `name` that did not come to its end; a finished one where there is more to do now.

        Raises:
            UserError: that run is alive.
        """
        roots = [getattr(config, key) for key in ROOT_KEYS]
        runs = runs_of(name, config.run_name, roots)
        found = next((run for run in runs if not run.finished), runs[0] if runs else None)
        if found is None:
            return Choice(notes=[f"resume auto: no run {name} in {config.ckpt_root_dir}: starting from the beginning"])
        mark = found.mark or RunMark.new(name)
        if found.finished:
            self.saved = newest(found).saved
            if self.saved is not None and (over := _over(found.folders.name, self._options, self.saved)):
                return Choice(Run(mark, found.folders), mark, self.saved.path, over=over)
        choice = self._entered(found.folders, mark)
        try:
            search = newest(found)
            self.saved = saved = search.saved
            if saved is None and search.damaged:
                close(choice)
                told = (
                    f"resume auto: no complete checkpoint in {found.folders.checkpoints}: starting from the beginning"
                )
                return Choice(notes=[*search.notes, told])
            if saved is None:
                told = (
                    f"resume auto: the run {found.folders.name} was stopped before its first checkpoint: "
                    "starting from the beginning"
                )
                return replace(choice, notes=[told, *choice.notes])
            return replace(choice, path=saved.path, damaged=search.damaged, notes=[*choice.notes, *search.notes])
        except BaseException:
            close(choice)
            raise

    def _entered(self, folders: Folders, mark: RunMark, path: Path | None = None) -> Choice:
        notes: list[str] = []
        run = enter(folders, mark, notes.append) if self._locks else Run(mark, folders)
        return Choice(run, mark, path, notes=notes)


def close(choice: Choice) -> None:
    """Let go of the run that was chosen."""
    if choice.run is not None:
        choice.run.close()


def start_of(options: Options, meeting: Meeting | None = None, *, locks: bool = True, name: str = "") -> Start:
    """Where the training that the user asks for begins. The run that it continues is locked: close what comes back.

    `resume FILE`, and `pretrained FILE` with `exclude_epoch_state False`, continue the run of FILE; `resume auto` the
    newest run of that name that did not come to its end, or begins one. Else `pretrained` gives weights to a new run.

    Args:
        meeting: of several processes, the first of which decides.
        locks: whether the run is to be trained.
        name: of the run, in place of that of its network.

    Raises:
        UserError: a file that cannot be read or holds no run, a run that is alive, a configuration that cannot be.
    """
    meeting = meeting or Meeting(Processes())
    chosen = str(options.said("resume", ""))
    continues = not options.said("exclude_epoch_state", True) and bool(options.checkpoint)
    chooser = Chooser(options, locks=locks)
    if chosen not in ("", "auto") or (continues and not chosen):
        validate_training(Config(**{**options.file, **options.line}))  # type: ignore[arg-type]
        path = Path(chosen or options.checkpoint)
        return _from(options, meeting.of_first(lambda: chooser.by_file(path)), chooser.saved)
    options, choices = prepared(options)
    weights = read_weights(options.checkpoint) if options.checkpoint else None
    config, notes = resolve(options, checkpoint_config(weights) if weights else None)
    notes = [*choices, *notes]
    name = name or config.run_name
    batch = wanted(options) if config.batch_size == AUTO_BATCH else None
    fresh = Start(replace(config, resume=""), notes, options.line, name, batch, weights)
    if chosen != "auto":
        return fresh
    choice = meeting.of_first(lambda: chooser.auto(config, name))
    if choice.path is not None:
        return _from(options, choice, chooser.saved)
    return replace(fresh, run=choice.run, notes=[*choice.notes, *notes])


def newest(run: Found) -> Search:
    """Look at the checkpoints of the run, the best ones included, the newest first, until one can be read."""
    folders = run.folders
    regular = CheckpointFolder(folders.checkpoints).files()
    best = [path for folder in (folders.best, folders.best / "ema") for path in CheckpointFolder(folder).files()]
    search = Search()
    reached = -1
    for path in sorted([*regular, *best], key=step_of, reverse=True):
        if step_of(path) < reached:
            break
        saved = _readable(path, search)
        if saved is None or (path not in regular and run.mark is None and not _writes_to(saved, folders)):
            continue
        # Of one step there may be one from before its evaluation, a best one from after it, and the run's last.
        if search.saved is None or _further(saved) > _further(search.saved):
            search.saved, reached = saved, step_of(path)
    if regular and search.saved is not None and step_of(regular[-1]) < search.saved.step:
        # That the newest of its folder is damaged is reported also where a best one is newer.
        _readable(regular[-1], search)
    return search


def _from(options: Options, choice: Choice, saved: SavedRun | None) -> Start:
    """Continue from the checkpoint that was chosen; `saved` is what the first process has read of it."""
    assert choice.path is not None
    try:
        if saved is None:
            saved = _read_by_another(choice.path)
        place = {**choice.keys, **({} if choice.run is None else choice.run.folders.roots)}
        config, notes = continued(options, saved, place)
        if choice.over:
            return Start(config, [choice.over], (), config.run_name, run=choice.run, saved=saved, over=choice.over)
        name = choice.run.folders.name if choice.run is not None else recorded_place(saved.content)[1]
        told = f"continuing the run {name} from {saved.path}, epoch {saved.content.get('epoch')}, step {saved.step}"
        given = (KEYS.keys() - {"device_num"}) | options.line.keys()  # what was decided at the run's beginning stays
        mark = choice.mark or RunMark.new(config.run_name)
        return Start(
            config,
            [told, *choice.notes, *notes],
            given,
            mark.name,
            run=choice.run,
            mark=mark,
            saved=saved,
            damaged=choice.damaged,
        )
    except BaseException:
        close(choice)
        raise


def _read_by_another(path: Path) -> SavedRun:
    if not path.is_file():
        raise UserError(
            f"{path}: the first process continues from this file, but another process cannot find it; set "
            "ckpt_root_dir to a folder that all machines share"
        )
    return read_saved_run(path)


def _base_of(content: Mapping[str, Any]) -> str:
    """The name of a run by its configuration: that of its folders, without their number."""
    config = content["config"]
    return Config(arch=str(config.get("arch")), model_postfix=str(config.get("model_postfix", "0"))).run_name


def recorded_place(content: Mapping[str, Any]) -> tuple[list[str], str]:
    """The four roots and the name of the folders that a checkpoint says its run had, in the order of `ROOT_KEYS`."""
    roots = [str(content["config"].get(key, KEYS[key].default)) for key in ROOT_KEYS]
    run = content.get("run")
    name = run.get("folder") if isinstance(run, dict) else None
    is_plain = isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
    return roots, str(name) if is_plain else _base_of(content)


def _elsewhere(path: Path, content: Mapping[str, Any], own: Mapping[str, Value]) -> str:
    """What to say of a checkpoint outside of its run's folders, which decides nothing about folders and trackers."""
    held = content["config"]
    differing = [f"{key} {own[key]} (not {held[key]})" for key in own if held.get(key, own[key]) != own[key]]
    return (
        f"{path} lies outside its run's folders, so folders and tracker come from the command line or the "
        f"defaults{': ' if differing else ''}{', '.join(differing)}"
    )


def _not_followed(path: Path, recorded: Sequence[str], instead: Mapping[str, Value]) -> list[str]:
    """What to say where other roots are used `instead` of recorded ones, which lead away from the run's folders."""
    held = dict(zip(ROOT_KEYS, recorded, strict=True))
    differing = [f"{key} {root} (not {held[key]})" for key, root in instead.items() if held[key] != root]
    if not differing:
        return []
    return [
        f"{path}: the folders that it records are not near this file, so those of the command line or the defaults "
        f"are used: {', '.join(differing)}"
    ]


def logs_of(path: Path) -> Path:
    """The folder of the logs of the run that the checkpoint `path`, or a folder of its checkpoints, belongs to.

    Raises:
        UserError: it is no checkpoint of a run and no folder of any, or its run's logs are not found.
    """
    if path.is_dir():
        files = [file for folder in (path, path / "ema") for file in CheckpointFolder(folder).files()]
        if not files:
            raise UserError(
                f"{path}: holds no history.csv and no checkpoint; give the logs folder of a run, such as "
                "runs/logs/t2t_vit_14"
            )
        path = files[-1]
    saved = through_link(path, lambda: read_saved_run(led_to(path)))
    path, content = saved.path, saved.content
    roots, name = recorded_place(content)
    place = CheckpointPlace(path, RunMark.of(content.get("run")), roots)
    folders = place.home(name, place.roots({}, roots)[0])
    if folders is None or not (folders.logs / RECORD).is_file():
        raise UserError(f"{path}: the logs of its run were not found; give their folder, such as runs/logs/{name}")
    return folders.logs


def _readable(path: Path, search: Search) -> SavedRun | None:
    try:
        return read_saved_run(path)
    except CheckpointError as error:
        search.damaged.append(path)
        search.notes.append(f"skipped for an older one: {error}")
        return None


def _writes_to(saved: SavedRun, folders: Folders) -> bool:
    """Whether the run of a best checkpoint of an older version is the one of these folders.

    Runs of one name shared the best ones then. Where the folder that it names is gone, the run was moved.
    """
    root = saved.content["config"].get("ckpt_root_dir")
    if not isinstance(root, str):
        return False
    return Path(root).resolve() == folders.checkpoints.parent.resolve() or not (Path(root) / folders.name).exists()


def _further(saved: SavedRun) -> tuple[bool, bool]:
    progress = saved.content["progress"]
    return progress.get("closed_at") == saved.step, progress.get("ended") is True


def _over(name: str, options: Options, saved: SavedRun) -> str:
    """Why nothing is left to do in the run called `name`, which came to its end; empty where more is asked for."""
    config, _ = continued(options, saved)
    held = saved.content["config"]
    if any(getattr(config, key) != held.get(key, KEYS[key].default) for key in LENGTH_KEYS):
        return ""
    updates = saved.content["data"].get("updates_per_epoch")
    if updates is None:  # of an older version
        return ""
    state = State(updates, config.epochs + config.cooldown_epochs, saved.step, step=saved.step)
    stopping, time = EarlyStopping(config.patience, config.best_by, _unheard), TimeLimit(config.max_hours, state)
    recall(saved.content, saved.path, [stopping, time])
    return nothing_left(name, config, state, stopping, time)


def _unheard(_: str) -> None:
    """For what says nothing new."""


def identity_of(
    config: Config,
    state: State,
    loader: TrainLoader,
    train: ImageSet,
    val: ImageSet,
    processes: Processes,
    run: Run,
    files: Mapping[str, int],
) -> Identity:
    """What every checkpoint of the run says of it; `files` tells its images and its teacher from others."""
    data = {
        "train_images": len(train),
        "val_images": len(val),
        "images_per_update": loader.batch_size * config.accumulation_step * processes.count,
        "updates_per_epoch": state.updates_per_epoch,
        "processes": processes.count,
        **files,
    }
    return Identity(config.arch, config.to_dict(), train.classes, to_yaml(config), data, run.to_dict())


def check_same_data(saved: SavedRun, now: Identity, note: Callable[[str], None]) -> None:
    """Compare the images, and the teacher, with those that the run was begun with.

    The run's own lists of images, where they are found, make them the same. Without them, other validation images
    change what is measured and no step; another number of training images changes every step that follows.

    Raises:
        UserError: training images differ, so that its steps and epochs would mean something else.
    """
    then = saved.content["data"]
    if then.get("train_images") != now.data["train_images"]:
        raise UserError(
            f"the run of {saved.path} cannot be continued: it has {then.get('train_images')} training images, there "
            f"are {now.data['train_images']} now, and the list of those that it began with is not in its logs folder; "
            f"begin a new run with --pretrained {quote(str(saved.path))}"
        )
    if then.get("train_files", now.data.get("train_files")) != now.data.get("train_files"):
        note("the training images have other names than when the run began: from here on their order is different")
    if then.get("teacher", now.data.get("teacher")) != now.data.get("teacher", then.get("teacher")):
        raise UserError(
            f"the run of {saved.path} cannot be continued: {now.config['teacher']} is not the teacher that it began "
            "with; give the file of that teacher with --teacher, or begin a new run with --pretrained "
            f"{quote(str(saved.path))}"
        )
    if then.get("val_images") != now.data["val_images"]:
        note(
            f"there were {then.get('val_images')} validation images when the run began, and there are "
            f"{now.data['val_images']} now: scores before and after are measured on different images"
        )
    elif then.get("val_files", now.data.get("val_files")) != now.data.get("val_files"):
        note(
            "the validation images have other names than when the run began: scores may be measured on different images"
        )
    if then.get("images_per_update") != now.data["images_per_update"]:
        raise UserError(
            f"the run of {saved.path} cannot be continued: an update takes {then.get('images_per_update')} images, and "
            f"now {now.data['images_per_update']} (batch_size x processes x accumulation_step); make the two equal"
        )
    if then.get("processes") != now.data["processes"]:
        note(
            f"{then.get('processes')} processes before, {now.data['processes']} now: each update has the same images, "
            "but sums are rounded in another order"
        )


def nothing_left(name: str, config: Config, state: State, stopping: EarlyStopping, time: TimeLimit) -> str:
    """What to say of the run called `name`, which is over."""
    over = f"the run {name} is finished"
    if stopping.is_over:
        return f"{over}: {stopping.reason}; a larger --patience, or 0, continues it"
    if time.was_over:
        return f"{over}: {time.reason}; a larger --max_hours, or 0, continues it"
    if config.max_steps and state.step < state.epochs * state.updates_per_epoch:
        return (
            f"{over}: max_steps {config.max_steps} ended it at step {state.step}; --max_steps 0 continues "
            f"it to the end of epoch {state.epochs}"
        )
    return f"{over}: step {state.step}, epoch {state.epoch}; a larger --epochs continues it"


def check_same_classes(saved: SavedRun, classes: Sequence[str]) -> None:
    """Compare the classes with those that the run was begun with.

    Raises:
        UserError: they differ, so that the network's answers would mean something else.
    """
    for number, (old, new) in enumerate(zip_longest(saved.content["classes"], classes)):
        if old is None or new is None or class_name(old) != class_name(new):
            raise UserError(
                f"the run of {saved.path} cannot be continued: its class {number} is {_named(old)}, and now it is "
                f"{_named(new)}; bring the old classes back, or begin a new run with --pretrained "
                f"{quote(str(saved.path))}"
            )


def _named(name: str | None) -> str:
    return "none" if name is None else repr(name)


def record_run(job: Job, model: nn.Module, state: State, train_images: ImageSet, val_images: ImageSet) -> None:
    """Write run.json into the run's logs; what the run found at an earlier end, which it continues from, goes.

    Raises:
        UserError: the folder cannot be written.
    """
    config, logs = job.config, job.folders.logs
    for name in (ANSWERS, EVALUATION, REPORT):
        (logs / name).unlink(missing_ok=True)
    content = {
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
    write_record(job.run, content)


def hardware(job: Job) -> dict[str, Any]:
    """The devices, and the machine around them."""
    on_cuda = job.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(job.device) if on_cuda else processor(),
        "device_type": job.device.type,
        "processes": job.processes.count,
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "precision": job.precision.name,
    }


def configuration(config: Config) -> list[dict[str, Any]]:
    """The keys by section, with their values and defaults."""
    values = config.to_dict()
    return [
        {
            "section": section,
            "keys": [
                {"key": key, "value": KEYS[key].written(values[key]), "default": KEYS[key].written(KEYS[key].default)}
                for key in keys
            ],
        }
        for section, keys in SECTIONS.items()
    ]
