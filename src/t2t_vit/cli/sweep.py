"""`t2t-vit sweep CONFIG --over KEY=...`: the same training with other values of some keys, and which are best."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from t2t_vit.assembly.scratch import prepared
from t2t_vit.cli.compare import compare
from t2t_vit.comparison.findings import as_json, headline
from t2t_vit.errors import UserError
from t2t_vit.notes import counted, print_line, tell
from t2t_vit.platforms import usable_cores
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import SHIPPED, to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.settings.values import Value, spelt
from t2t_vit.sweep.record import check, enter
from t2t_vit.sweep.results import Trial, logs_of_trial, shown, table, trials_of
from t2t_vit.sweep.runner import Runner, environments, visible_devices
from t2t_vit.sweep.space import (
    MOST_TRIALS,
    OWN_KEYS,
    Dimension,
    check_combinations,
    grid_size,
    read_over,
)
from t2t_vit.sweep.study import Plan, Study, check_installed, database_errors
from t2t_vit.tables import print_table
from t2t_vit.training import waiting
from t2t_vit.training.distributed import from_environment
from t2t_vit.training.signals import Stopped

PAGE = "comparison.html"


def run(options: Options) -> int:
    """Train what is left of the sweep, and print what came of it; 1 where no trial is complete.

    Raises:
        UserError: values that a key does not take, a folder of another sweep, or a first run that cannot begin.
    """
    waiting.end()
    if from_environment().count > 1:
        raise UserError(
            "sweep starts its own processes: run it without the launcher; --jobs sets the number of processes at a time"
        )
    plan, config = plan_of(options)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    check_installed()
    folder = Path(options.extra("folder") or Path("runs/sweeps") / config.run_name)
    jobs = options.extra("jobs")
    content = describe(options, plan, config)
    goes_on = enter(folder, content, tell)
    study = Study(folder, plan, config.seed, partial(check, folder, content))
    seeds = f" of {counted(len(plan.seeds), 'run')} each" if len(plan.seeds) > 1 else ""
    tell(
        f"{folder}: {'the sweep continues' if goes_on else 'a new sweep'}, {plan.shown_trials}{seeds}, {jobs} at a time"
    )
    # A device that was chosen stays: a run that sees one device alone would not find it by its number.
    spread = jobs > 1 and config.device_target in ("auto", "GPU") and config.device_id == 0
    devices = visible_devices() if spread else []
    runner = Runner(
        folder,
        plan,
        study,
        partial(train_words, options),
        config.best_by,
        jobs=jobs,
        environments=environments(jobs, usable_cores(), devices),
        note=tell,
    )
    try:
        with database_errors(folder):
            runner.run()
    except (Stopped, KeyboardInterrupt):
        tell(f"stopped; this command continues the sweep: {own_command(options)}")
        raise
    trials = trials_of(study.trials(), plan.dimensions, plan.default, loss=plan.loss)
    return conclude(options, folder, plan, config, trials)


def plan_of(options: Options) -> tuple[Plan, Config]:
    """What to try, and the configuration that it starts from; all values are checked.

    Raises:
        UserError: what cannot be swept, or values that keys do not take or that contradict each other.
    """
    dimensions = read_over(options.extras.get("over", []))
    own = next((key for key in options.line if key in OWN_KEYS), None)
    if own is not None:
        raise UserError(f"--{own}: the sweep decides it, since each trial has folders of its own; leave it out")
    swept = next((each.key for each in dimensions if each.key in options.line), None)
    if swept is not None:
        raise UserError(f"--{swept} and --over {swept} contradict each other; keep one of them")
    if options.path is not None and not options.path.is_file():
        raise UserError(f"{options.path}: every run of a sweep reads the configuration; name a file")
    options, _ = prepared(options)
    config, _ = resolve(options)
    dimensions, seeds = _seeds(options, dimensions, config)
    if not dimensions:
        raise UserError(
            "sweep needs keys to vary: --over KEY=V1,V2,... or --over KEY=LOW..HIGH[:log] (of one configuration with "
            "several seeds compare makes a group: t2t-vit compare RUN RUN ...)"
        )
    check_combinations(dimensions, lambda values: resolve(replace(options, line={**options.line, **values})))
    size, trials = grid_size(dimensions), options.extra("trials")
    if size is None and not trials:
        raise UserError("a range in --over has no fixed number of values; give the number of trials with --trials N")
    is_grid = size is not None and (not trials or trials >= size)
    if is_grid and size is not None and size > MOST_TRIALS:
        raise UserError(f"there are {size:,} combinations; give the number of trials with --trials N")
    if size is not None and trials > size:
        tell(f"--trials {trials}: there are {counted(size, 'combination')}, and each is tried once")
    drawn = {each.key: each.drawn(getattr(config, each.key)) for each in dimensions}
    default = None if any(value is None for value in drawn.values()) else drawn
    count = size if is_grid and size is not None else trials
    epochs = config.epochs + config.cooldown_epochs
    plan = Plan(dimensions, count, seeds, default, is_grid, config.best_by == "loss", options.extra("prune"), epochs)
    return plan, config


def _seeds(options: Options, dimensions: list[Dimension], config: Config) -> tuple[list[Dimension], list[int]]:
    """The keys besides the seed, and the seeds of each combination."""
    over = next((each for each in dimensions if each.key == "seed"), None)
    if over is None:
        return dimensions, [config.seed + number for number in range(options.extra("seeds"))]
    if "seeds" in options.extras:
        raise UserError("--seeds and --over seed contradict each other; keep one of them")
    if over.is_range:
        raise UserError("--over seed takes single seeds, as seed=0,1,2: the trials are averaged over them")
    return [each for each in dimensions if each is not over], [int(text) for text in over.values]


def describe(options: Options, plan: Plan, config: Config) -> dict[str, Any]:
    """What makes it this sweep and no other."""
    return {
        "configuration": config.to_dict(),
        "command line": sorted(_said(options.line)),
        "over": [each.spelt() for each in plan.dimensions],
        "seeds": list(plan.seeds),
        "prune": plan.prune,
        "trials": plan.trials,
    }


def train_words(options: Options, texts: Mapping[str, str], seed: int) -> list[str]:
    """What stands after `t2t-vit train` for these values and this seed."""
    line = {key: value for key, value in options.line.items() if key != "seed"}
    swept = [f"--{key}={text}" for key, text in texts.items()]
    return [*_config_word(options), *_said(line), *swept, f"--seed={seed}"]


def _config_word(options: Options) -> list[str]:
    if options.path is None:
        return []
    return [options.path.stem if options.path.parent == SHIPPED else str(options.path)]


def _said(line: Mapping[str, Value]) -> list[str]:
    """Options that mean the same as those of the command line."""
    return [f"--{key}={spelt(KEYS[key].written(value))}" for key, value in line.items()]


def own_command(options: Options) -> str:
    """The command line of this sweep again."""
    extras = [
        f"--{name}={each}"
        for name, value in options.extras.items()
        if name not in ("config", "config_path")
        for each in (value if isinstance(value, list) else [value])
        if value is not True
    ]
    flags = [f"--{name}" for name, value in options.extras.items() if value is True]
    words = [*_config_word(options), *_said(options.line), *extras, *flags]
    return " ".join(["t2t-vit sweep", *map(quote, words)])


def conclude(options: Options, folder: Path, plan: Plan, config: Config, trials: Sequence[Trial]) -> int:
    """Print the table, how to train the best, and how it compares with the configuration as it is."""
    metric = config.best_by
    best = trials[0] if trials and trials[0].values else None
    default = next((each for each in trials if each.is_default and each.values), None)
    found: dict[str, Any] = {"folder": str(folder), "metric": metric, "trials": [each.to_dict() for each in trials]}
    lines = []
    if best is None:
        lines.append("no trial is complete")
    else:
        texts = {} if best.is_default else best.texts
        words = train_words(options, texts, plan.seeds[0])
        command = " ".join(["t2t-vit train", *map(quote, words)])
        found |= {"best": best.number, "command": command}
        lines += [f"best: trial {best.number}, {metric} {shown(best.mean, metric)}", f"train it: {command}"]
        lines += _compared(folder, plan, config, best, default, found)
    lines += _nothing_more(plan, len(trials))
    if "json" in options.extras:
        json.dump(found, sys.stdout, indent=1)
        print()
        return 0 if best else 1
    print_table(*table(trials, plan.dimensions, metric), left=(-1,))
    for line in lines:
        print_line(line)
    return 0 if best else 1


def _nothing_more(plan: Plan, tried: int) -> Iterator[str]:
    """Whether all is tried that there is, so that more trials would add nothing."""
    if plan.is_grid:
        yield f"all combinations were tried ({tried}); more values in --over continue the sweep"
    elif tried < plan.trials:
        yield (
            f"{counted(tried, 'combination')} of {plan.trials} were tried: all others that were drawn had been tried "
            "before; wider ranges or more values in --over continue the sweep"
        )


def _compared(
    folder: Path, plan: Plan, config: Config, best: Trial, default: Trial | None, found: dict[str, Any]
) -> list[str]:
    """Lines on the best trial, compared with the configuration as it is."""
    if default is best:
        return ["the values of the configuration itself were the best"]
    if default is None:
        own = ", ".join(f"{each.key} {spelt(getattr(config, each.key))}" for each in plan.dimensions)
        return [f"not compared with the values of the configuration itself ({own}): no complete trial has them"]
    page = folder / PAGE
    groups, pairs = compare([*logs_of_trial(folder, default), *logs_of_trial(folder, best)], page)
    found["comparison"] = {**as_json(groups, pairs), "page": str(page)}
    return [
        f"compared with the values of the configuration itself, trial {default.number}: {headline(pairs)}",
        "The best trial was chosen by these images, so its number is flattering: train both with other seeds to be "
        "sure.",
        str(page),
    ]
