"""The comparison as one HTML file that needs no network, no script and no other file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from t2t_vit.comparison.findings import Pair, class_rows, count_of_tests, headline, points, shown_p, unlike_evaluation
from t2t_vit.comparison.runs import ComparedRun, Group, differing_keys, top1
from t2t_vit.comparison.significance import Difference
from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.report.charts import Chart, Line, chart
from t2t_vit.report.formatting import number, percent, setting
from t2t_vit.report.page import DAMAGE, environment
from t2t_vit.report.run_files import Points

COLOURS = 8
_SHOWN = 40  # rows of the table of classes that are not folded away


def write_comparison(output: Path, groups: Sequence[Group], pairs: Sequence[Pair], advice: Sequence[str] = ()) -> None:
    """Write the page; `advice` are lines on what is missing, and how it can be had.

    Raises:
        UserError: the files of a run are damaged, or the page cannot be written.
    """
    try:
        page = comparison_page(groups, pairs, advice)
    except DAMAGE as error:
        folders = ", ".join(str(run.files.folder) for group in groups for run in group.runs)
        raise UserError(
            f"{folders}: the files of one of these runs are not in the form that a run writes "
            f"({type(error).__name__}: {error})"
        ) from error
    with atomic_write(output, "w") as file:
        file.write(page)


def comparison_page(groups: Sequence[Group], pairs: Sequence[Pair], advice: Sequence[str] = ()) -> str:
    """The page."""
    runs = [run for group in groups for run in group.runs]
    return (
        environment()
        .get_template("comparison.html")
        .render(
            groups=groups,
            runs=runs,
            pairs=pairs,
            tests=count_of_tests(pairs),
            headline=headline(pairs),
            notes=[text for text in remarks(groups, pairs, advice) if text not in headline(pairs)],
            rows=[group_row(group, pair) for group, pair in zip(groups, [None, *pairs], strict=True)],
            colours=[f"of-{index % COLOURS}" for index in range(len(groups))],
            curves=curves(groups),
            classes=class_rows(groups),
            shown=_SHOWN,
            differences=differences(groups),
            top1=top1,
        )
    )


def differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The keys that differ, and what each group has, as people read it: `0, 1, 2` of three seeds."""
    return {
        key: [", ".join(setting(value) for value in values) or "–" for values in row]
        for key, row in differing_keys(groups).items()
    }


def remarks(groups: Sequence[Group], pairs: Sequence[Pair], advice: Sequence[str]) -> list[str]:
    """What to know about the figures: why something is not tested, what is not in an interval, what can be done."""
    runs = [run for group in groups for run in group.runs]
    found = [*dict.fromkeys(pair.why_not for pair in pairs if pair.why_not), *advice]
    found += [text for run in runs if (text := unlike_evaluation(run))]
    for group in groups:
        if group.left_out:
            names = ", ".join(run.name for run in group.left_out)
            found.append(f"Left out of all numbers of {group.name}, because not finished: {names}.")
    unfinished = [run.name for group in groups for run in group.measured if not run.is_finished]
    if unfinished:
        found.append(f"Not finished, so shown with the figures of the last evaluation: {', '.join(unfinished)}.")
    if differing_keys(groups).keys() == {"seed"}:
        found.append("These runs have the same configuration: they differ only by what another seed changes.")
    elif any(pair.images is not None and pair.seeds is None for pair in pairs):
        found.append(
            "An interval over images says how sure the difference between these networks is. It does not include what "
            "another seed would change: to know that, train each configuration with several seeds."
        )
    return found


def group_row(group: Group, pair: Pair | None) -> dict[str, str]:
    """What the tables of the page and of the terminal show of a group; `pair` compares it with the first."""
    spread = group.spread(top1)
    shown = percent(group.mean(top1))
    return {
        "name": group.name,
        "top-1": shown if spread is None else f"{shown.removesuffix(' %')} ± {percent(spread)}",
        "loss": number(group.mean(lambda run: run.loss), 4),
        "difference": "" if pair is None or pair.value is None else points(pair.value),
        "by images": "" if pair is None else interval(pair.images),
        "by seeds": "" if pair is None else interval(pair.seeds),
        "p": "" if pair is None or pair.p is None else shown_p(pair.p),
        "verdict": "the first" if pair is None else pair.verdict,
        "seconds": number(group.mean(lambda run: run.seconds)),
        "images/s": number(group.mean(lambda run: run.images_per_second)),
        "steps": number(group.mean(lambda run: run.steps)),
        "parameters": number(group.mean(lambda run: run.parameters)),
    }


def interval(found: Difference | None) -> str:
    """Both ends in percentage points; a dash where there is none."""
    return "–" if found is None else f"{points(found.low)} to {points(found.high)}"


def curves(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy and losses by epoch and by seconds, the mean of each group."""
    drawn: list[tuple[str, Callable[[ComparedRun], Points], Callable[[float], str]]] = [
        ("Top-1 accuracy", lambda run: run.of_weights("top1"), lambda value: percent(value, 1)),
        ("Validation loss", lambda run: run.of_weights("loss"), number),
        ("Training loss", lambda run: run.files.points("train_loss", "epoch"), number),
    ]
    charts = []
    for title, of, show in drawn:
        for over, by_seconds in (("epoch", False), ("seconds", True)):
            lines = [
                Line(group.name, group.course(of, by_seconds=by_seconds), f"of-{index % COLOURS}")
                for index, group in enumerate(groups)
            ]
            charts.append(chart(f"{title} by {over}", lines, show=show, over=over))
    return [each for each in charts if each]
