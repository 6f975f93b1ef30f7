"""`t2t-vit train`: the line and the file -> a training job -> where everything is."""

from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.job import Result
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.cli.training_job import train_job
from t2t_vit.training.distributed import from_environment, leave
from t2t_vit.weights import checkpoint_config, read_weights


def run(options: Options) -> int:
    """Train, and say where everything is."""
    weights = read_weights(options.checkpoint) if options.checkpoint else None
    config, notes = resolve(options, checkpoint_config(weights) if weights else None)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    processes = from_environment()
    result = train_job(config, processes, weights=weights, notes=notes, given=options.line)
    if processes.is_first:
        print("\n".join(where(result)))
    if processes.count > 1:
        leave(0)
    return 0


def where(result: Result) -> list[str]:
    """A line for each thing that a run left behind."""
    folders = result.folders
    return [
        f"checkpoint        {result.checkpoint}",
        f"best checkpoints  {folders.best}",
        f"log and history   {folders.logs}",
        f"summary           {folders.summary}  (tensorboard --logdir {folders.summary.parent})",
    ]
