"""What follows a training run: log, bar, summary and checkpoints."""

from collections.abc import Sequence

import torch

from t2t_vit.assembly import build
from t2t_vit.assembly.run import Job, Start
from t2t_vit.data.loader import TrainLoader
from t2t_vit.files import atomic_write
from t2t_vit.platforms import usable_cores
from t2t_vit.settings.schema import Config
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import Identity, Trained, recall
from t2t_vit.training.journal import History, Journal, LiveBar
from t2t_vit.training.loop import TrainBatches
from t2t_vit.training.measurements import DataWait, Instruments, Norms, utilisation
from t2t_vit.training.retention import Checkpoints
from t2t_vit.training.state import State
from t2t_vit.training.tensorboard import TensorBoard, export_graph, graph_def
from t2t_vit.training.trackers import Guarded, MlflowTracker, ShowInputs, Summary, Tracker, WandbTracker


def follow(
    job: Job,
    trained: Trained,
    state: State,
    loader: TrainLoader,
    identity: Identity,
    start: Start,
    guard: Callback,
    limits: Sequence[Callback],
) -> tuple[TrainBatches, list[Callback]]:
    """The batches and what follows the run: `guard` and `limits`, and log, bar, summary and checkpoints in the first
    process alone.

    In a continued run they keep their state.
    """
    if not job.processes.is_first:
        _recall(start, [guard, *limits])
        return loader, [guard, *limits]
    config = job.config
    history = History(job.folders.logs, state.step if start.saved else 0, closed=state.closed_at == state.step)
    instruments = _instruments(job, trained, state)
    journal = Journal(
        state,
        job.console,
        instruments=instruments,
        every=config.print_loss_every,
        history=history,
        best_by=config.best_by,
    )
    trackers = _trackers(job, trained, state, goes_on=start.saved is not None)
    summary = Summary(state, trackers, every=config.summary_loss_collect_freq, instruments=instruments)
    batches: TrainBatches = loader
    if config.collect_input_data:
        preprocessing = build.preprocessing_of(config)
        batches = ShowInputs(
            loader,
            trackers,
            mean=preprocessing.mean,
            std=preprocessing.std,
            accumulation=config.accumulation_step,
        )
    bar = [LiveBar(state, job.console, instruments=instruments)] if job.console.live else []
    followers = [guard, *limits, journal, summary]
    _recall(start, followers)
    checkpoints = _checkpoints(job, trained, identity, followers)
    if start.saved is None:
        checkpoints.begin()
    else:
        checkpoints.go_on(start.saved.content, start.saved.path, state, start.damaged)
    data_wait = DataWait(_advice(config), job.note, processes=job.processes.count)
    return batches, [guard, *bar, journal, *limits, summary, data_wait, checkpoints]


def _advice(config: Config) -> str:
    """What to do where reading is too slow."""
    available, workers = usable_cores(), config.num_parallel_workers
    more = f"raise num_parallel_workers ({workers} of {available} cores now), " if workers < available else ""
    return f"{more}move the data to a faster disk, store smaller images, or turn auto_augment off"


def _recall(start: Start, callbacks: Sequence[Callback]) -> None:
    if start.saved is not None:
        recall(start.saved.content, start.saved.path, callbacks)


def _instruments(job: Job, trained: Trained, state: State) -> Instruments:
    config, precision = job.config, job.precision
    size = build.preprocessing_of(config).image_size
    return Instruments(
        job.device,
        job.processes.count,
        Norms(trained.optimizer, state, config.print_loss_every, config.summary_loss_collect_freq),
        # With images of several sizes, a step has no one number of operations.
        None
        if config.crop_schedule
        else utilisation(
            trained.model,
            (config.in_chans, *size),
            job.device,
            precision.autocast_dtype or precision.weights_dtype,
        ),
    )


def _trackers(job: Job, trained: Trained, state: State, *, goes_on: bool) -> list[Tracker]:
    """TensorBoard, and beside it what `tracker` names."""
    config, logs = job.config, job.folders.logs
    board = TensorBoard(job.folders.summary, state.step)
    if config.dump_graph:
        _dump_graph(job, trained, board)
    trackers: list[Tracker] = [Guarded(board, "the summary", job.note)]
    if config.tracker == "wandb":
        wandb = WandbTracker(
            logs, job.folders.name, config.to_dict(), run=job.run.mark.id, goes_on=goes_on, note=job.note
        )
        trackers.append(Guarded(wandb, "tracker: wandb", job.note))
    if config.tracker == "mlflow":
        settings = config.to_dict()
        mlflow = MlflowTracker(
            logs.parent, logs, job.folders.name, settings, run=job.run.mark.id, goes_on=goes_on, note=job.note
        )
        trackers.append(Guarded(mlflow, "tracker: mlflow", job.note))
    return trackers


def _checkpoints(job: Job, trained: Trained, identity: Identity, followers: Sequence[Callback]) -> Checkpoints:
    config = job.config
    return Checkpoints(
        job.folders.checkpoints,
        job.folders.best,
        identity,
        trained,
        keep_num=config.ckpt_keep_num,
        best_num=config.best_ckpt_num,
        best_by=config.best_by,
        every_steps=config.ckpt_save_every_step,
        every_seconds=config.ckpt_save_every_seconds,
        note=job.note,
        followers=followers,
    )


def _dump_graph(job: Job, trained: Trained, board: TensorBoard) -> None:
    size = build.preprocessing_of(job.config).image_size
    images = torch.zeros(2, job.config.in_chans, *size, device=job.device)
    program = export_graph(trained.model, images)
    board.graph(graph_def(program))
    path = job.folders.summary / "graph.txt"
    with atomic_write(path, "w") as file:
        file.write(str(program.graph))
    job.note(f"the graph of the model is written to {path} and to the summary")
