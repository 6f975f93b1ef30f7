"""`t2t-vit report RUN_FOLDER`: the report of a run from the files that it left, also of one that was killed."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from t2t_vit.errors import UserError

TEXT = """\
Usage: t2t-vit report RUN_FOLDER [--output FILE]

Makes report.html from the logs of a run: one file without network. Training writes it by itself at its end; this makes
it again, or for the first time for a run that was killed.

RUN_FOLDER is the logs folder of the run, such as runs/logs/t2t_vit_14.

  --output FILE   the report (default: report.html in RUN_FOLDER)
  --help          show this text and end
"""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"report: {message}; write t2t-vit report RUN_FOLDER")


def run(words: Sequence[str]) -> int:
    """Write the report, and say where it is.

    Raises:
        UserError: a mistake on the line, no run in the folder, or a report that cannot be written.
    """
    if not words or "--help" in words or "-h" in words:
        print(TEXT, end="")
        return 0
    from t2t_vit.report.page import write_report
    from t2t_vit.report.run_files import REPORT

    parser = _Parser(prog="t2t-vit report", add_help=False, allow_abbrev=False)
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path)
    parser.add_argument("--output", metavar="FILE", type=Path)
    line = parser.parse_args(words)
    output = line.output or line.folder / REPORT
    write_report(line.folder, output)
    print(output)
    return 0
