"""`t2t-vit report RUN_FOLDER`: the report of a run from the files that it left, also of one that was killed."""

from pathlib import Path

from t2t_vit.notes import print_line
from t2t_vit.report.page import write_report
from t2t_vit.report.run_files import REPORT, holds_run
from t2t_vit.settings.command_line import Options


def run(options: Options) -> int:
    """Write the report, and print where it is.

    Raises:
        UserError: no run in the folder, or a report that cannot be written.
    """
    folder = logs_folder(options.data)
    output = Path(options.extras.get("output", folder / REPORT))
    write_report(folder, output)
    print_line(str(output))
    return 0


def logs_folder(word: str) -> Path:
    """The logs folder of the run that `word` names: that folder, one of its checkpoints, or a folder of these.

    Raises:
        UserError: a checkpoint whose run's logs are not found, or a folder without any.
    """
    path = Path(word)
    if not path.exists() or holds_run(path):
        return path  # what is missing is reported by who reads it
    from t2t_vit.assembly.run import logs_of  # a folder's report needs no torch

    return logs_of(path)
