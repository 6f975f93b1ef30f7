"""`t2t-vit train`: the line and the file -> a training job -> where everything is."""

from t2t_vit.cli.continuing import start_of
from t2t_vit.cli.job import Result
from t2t_vit.cli.training_job import train_job
from t2t_vit.report.run_files import REPORT
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.training.distributed import from_environment
from t2t_vit.training.orphan import end_with_launcher


def run(options: Options) -> int:
    """Train, and say where everything is."""
    processes = from_environment()
    if processes.count > 1:
        end_with_launcher()
    start = start_of(options)
    if options.print_config:
        print(to_yaml(start.config), end="")
        return 0
    result = train_job(start, processes)
    if processes.is_first:
        print("\n".join(where(result)))
    return 0


def where(result: Result) -> list[str]:
    """A line for each thing that a run left behind."""
    folders = result.folders
    return [
        f"checkpoint        {result.checkpoint}",
        f"best checkpoints  {folders.best}",
        f"log and history   {folders.logs}",
        f"report            {folders.logs / REPORT}",
        f"summary           {folders.summary}  (tensorboard --logdir {folders.summary.parent})",
    ]
