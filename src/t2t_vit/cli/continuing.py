"""Where a training begins: at the beginning, from weights, or where an earlier run was stopped."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from t2t_vit.cli.job import Folders
from t2t_vit.errors import UserError
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.resolution import continued, resolve
from t2t_vit.settings.rules import validate_training
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.training.shelf import Shelf, step_of
from t2t_vit.weights import SavedRun, Weights, checkpoint_config, read_run, read_weights


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    given     keys that somebody chose, and that the data must not overrule
    weights   to start from, in a new run
    saved     the run that goes on
    damaged   checkpoints of that run that cannot be read
    """

    config: Config
    notes: Sequence[str]
    given: Collection[str]
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
        return _from(options, read_run(chosen or options.checkpoint))
    weights = read_weights(options.checkpoint) if options.checkpoint else None
    config, notes = resolve(options, checkpoint_config(weights) if weights else None)
    fresh = Start(replace(config, resume=""), notes, options.line, weights)
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
    regular = Shelf(folders.checkpoints).files()
    best = [path for folder in (folders.best, folders.best / "ema") for path in Shelf(folder).files()]
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
        _readable(
            regular[-1], search
        )  # that the newest of its folder is damaged is told also where a best one is newer
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
        return read_run(path)
    except UserError as error:
        search.damaged.append(path)
        search.notes.append(f"passed over for another one: {error}")
        return None


def _writes_to(saved: SavedRun, folders: Folders) -> bool:
    """Whether the run of a best checkpoint is the one of these folders: runs of a name may share the best ones."""
    root = saved.content["config"].get("ckpt_root_dir")
    return isinstance(root, str) and Path(root).resolve() == folders.checkpoints.parent.resolve()


def _further(saved: SavedRun) -> tuple[bool, bool]:
    progress = saved.content["progress"]
    return progress.get("closed_at") == saved.step, progress.get("ended") is True


def _nothing(folders: Folders, search: Search) -> str:
    strangers = Shelf(folders.checkpoints).strangers()
    others = f" ({strangers} of earlier runs are left alone; --resume FILE continues one)" if strangers else ""
    kind = "no whole checkpoint" if search.damaged else "no checkpoint of a run to continue"
    return f"resume auto: {kind} in {folders.checkpoints}{others}: starting from the beginning"
