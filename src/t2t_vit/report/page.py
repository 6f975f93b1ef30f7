"""The report of a run: one HTML file that needs no network, no script and no other file."""

from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.report.curves import curves
from t2t_vit.report.markup import text
from t2t_vit.report.mistakes import mistakes
from t2t_vit.report.overview import badge, configuration, headline, results, speed, tiles
from t2t_vit.report.reliability import reliability
from t2t_vit.report.run_files import EVALUATION, RECORD, RunFiles, read_run
from t2t_vit.report.scores import class_table, confusions
from t2t_vit.report.style import STYLE

# Nothing may be loaded from anywhere, and nothing run, whatever a class is called.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(folder: Path, output: Path) -> None:
    """The report of the run whose logs are in `folder`, as far as the run came.

    Raises:
        UserError: the folder holds no run, a file in it is damaged, or the report cannot be written.
    """
    run = read_run(folder)
    try:
        page = report(run)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        names = " or ".join(name for name, held in ((RECORD, run.record), (EVALUATION, run.evaluation)) if held)
        raise UserError(f"{folder}: {names} is not as a run writes it ({type(error).__name__}: {error})") from error
    with atomic_write(output, "w") as file:
        file.write(page)


def report(run: RunFiles) -> str:
    """The page."""
    name = text(run.record.get("name", run.folder.name))
    parts = [
        f"<header><h1>{name}</h1>{headline(run)}{tiles(run)}</header>",
        results(run),
        curves(run),
        *_evaluation(run),
        speed(run),
        configuration(run),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: report</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{''.join(parts)}</main></body></html>\n"
    )


def _evaluation(run: RunFiles) -> list[str]:
    found = run.evaluation
    if not found:
        return []
    mark = badge(found["weights"])
    return [part(found, mark) for part in (class_table, confusions, mistakes, reliability)]
