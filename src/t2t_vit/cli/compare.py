"""`t2t-vit compare RUN RUN ...`: which run is better, by how much, and how sure that is; a page and a table."""

import json
from collections.abc import Sequence
from pathlib import Path

from t2t_vit.cli.report import logs_folder
from t2t_vit.comparison.findings import Pair, are_drawn_apart, as_json, headline, pairs_of, why_unpaired
from t2t_vit.comparison.page import differences, group_row, remarks, write_comparison
from t2t_vit.comparison.runs import Group, grouped, read_runs
from t2t_vit.errors import UserError
from t2t_vit.inference.writers import check_output
from t2t_vit.notes import print_line, tell
from t2t_vit.settings.command_line import Options
from t2t_vit.tables import print_table

# What `group_row` calls them -> the titles on a terminal.
COLUMNS = {
    "name": "run",
    "top-1": "top-1",
    "loss": "loss",
    "difference": "difference, points",
    "by images": "95 % interval, images",
    "by seeds": "95 % interval, seeds",
    "p": "p",
    "verdict": "verdict",
    "seconds": "seconds",
    "images/s": "images/s",
}


def run(options: Options) -> int:
    """Compare, write the page, and print the table and who wins.

    Raises:
        UserError: fewer than two runs, one that is named twice, files that are damaged, or a page that cannot be
            written.
    """
    if len(options.words) < 2:
        raise UserError(f"compare needs at least two runs, but got only {options.data}")
    output = Path(options.extra("output"))
    check_output(output)
    groups, pairs = compare([logs_folder(word) for word in options.words], output)
    if "json" in options.extras:
        print(json.dumps({**as_json(groups, pairs), "page": str(output)}, indent=1))
        return 0
    show(groups, pairs)
    print_line(str(output))
    return 0


def compare(folders: Sequence[Path], output: Path) -> tuple[list[Group], list[Pair]]:
    """Compare the runs whose logs are in `folders`, write the page, and print on standard error what is missing.

    Raises:
        UserError: as of `run`; or all runs are of one configuration, so that nothing is compared.
    """
    groups = grouped(read_runs(folders))
    if len(groups) == 1:  # seeds of one configuration: each is a run by itself
        groups = [Group([each]) for each in groups[0].runs]
    pairs = pairs_of(groups)
    advice = _advice(groups)
    write_comparison(output, groups, pairs, advice)
    for text in remarks(groups, pairs, advice):
        tell(text)
    return groups, pairs


def _advice(groups: Sequence[Group]) -> list[str]:
    """The commands after which images can be paired: for runs without answers, or with answers to other images."""
    finished = [run for group in groups for run in group.runs if run.is_finished]
    if not finished:
        return []
    lacking = [run for run in finished if run.answers is None]
    apart = finished if not lacking and why_unpaired(finished) and are_drawn_apart(finished) else []
    if not lacking and not apart:
        return []
    from t2t_vit.comparison.stored_answers import how_to_store_answers  # it looks for checkpoints, with torch

    return [how_to_store_answers(run, to_all=bool(apart)) for run in lacking or apart]


def show(groups: Sequence[Group], pairs: Sequence[Pair]) -> None:
    """The table of the groups, what differs in their configuration, and who wins."""
    rows = [group_row(group, pair) for group, pair in zip(groups, [None, *pairs], strict=True)]
    print_table([*COLUMNS.values()], [[row[name] for name in COLUMNS] for row in rows])
    if differing := differences(groups):
        print_line("")
        names = [group.name for group in groups]
        print_table(("key that differs", *names), [[key, *values] for key, values in differing.items()])
    print_line("")
    print_line(headline(pairs))
