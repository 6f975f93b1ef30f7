"""The report of a run: one HTML file that needs no network, no script and no other file."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.report import formatting, sections
from t2t_vit.report.run_files import EVALUATION, RECORD, RunFiles, read_run

# What the content of damaged files leads to.
DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, jinja2.UndefinedError)


def write_report(folder: Path, output: Path) -> None:
    """The report of the run whose logs are in `folder`, as far as the run came.

    Raises:
        UserError: the folder holds no run, a file in it is damaged, or the report cannot be written.
    """
    run = read_run(folder)
    try:
        page = report(run)
    except DAMAGE as error:
        names = " or ".join(name for name, held in ((RECORD, run.record), (EVALUATION, run.evaluation)) if held)
        raise UserError(
            f"{folder}: {names} is not in the form that a run writes ({type(error).__name__}: {error})"
        ) from error
    with atomic_write(output, "w") as file:
        file.write(page)


def write_evaluation_report(output: Path, title: str, found: dict[str, Any]) -> None:
    """The report of one evaluation, without a run: scores of each class, confusion, mistakes and calibration.

    Args:
        found: as `evaluation.findings.details` gives it, with the `weights` and how they were `measured`.

    Raises:
        UserError: the report cannot be written.
    """
    page = report(RunFiles(Path(title), [], {}, found), title=title)
    with atomic_write(output, "w") as file:
        file.write(page)


def report(run: RunFiles, title: str = "") -> str:
    """The page; with a title it is that of an evaluation alone."""
    found = run.evaluation
    template = environment().get_template("report.html")
    return template.render(
        name=title or run.record.get("name", run.folder.name),
        is_of_run=not title,
        record=run.record,
        evaluation=found,
        last_step=sections.last_logged_step(run),
        tiles=sections.tiles(run),
        results=sections.results(run),
        curves=sections.curves(run),
        classes=sections.classes(found) if found else None,
        confusion=sections.confusion(found) if found else None,
        mistakes=sections.mistakes(found) if found else [],
        reliability=sections.reliability(found) if found else None,
        speed=sections.speed(run),
    )


@cache
def environment() -> jinja2.Environment:
    """Templates of this package alone. Whatever a class or a file is called, it is shown as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2t_vit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for made in (formatting.number, formatting.percent, formatting.duration, formatting.setting, formatting.shortened):
        environment.filters[made.__name__] = made
    environment.filters["pixels"] = "{:.1f}".format
    return environment


def _shown(value: object) -> object:
    """What a template shows in place of `value`, before it is escaped; HTML of the templates' own macros stays."""
    return formatting.printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
