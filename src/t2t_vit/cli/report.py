"""`t2t-vit report RUN_FOLDER`: the report of a run from the files that it left, also of one that was killed."""

from pathlib import Path

from t2t_vit.notes import print_line
from t2t_vit.report.page import write_report
from t2t_vit.report.run_files import REPORT
from t2t_vit.settings.command_line import Options


def run(options: Options) -> int:
    """Write the report, and print where it is.

    Raises:
        UserError: no run in the folder, or a report that cannot be written.
    """
    folder = Path(options.data)
    if folder.is_file():
        from t2t_vit.assembly.run import logs_of  # a folder's report needs no torch

        folder = logs_of(folder)
    output = Path(options.extras.get("output", folder / REPORT))
    write_report(folder, output)
    print_line(str(output))
    return 0
