"""What follows a training run: log, bar, summary and checkpoints."""

from collections.abc import Sequence

import torch

from t2t_vit.cli import assembly
from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.job import Job
from t2t_vit.data.loader import TrainLoader
from t2t_vit.files import atomic_write
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import Identity, Trained
from t2t_vit.training.history import History
from t2t_vit.training.journal import Journal
from t2t_vit.training.loop import TrainBatches
from t2t_vit.training.retention import Checkpoints
from t2t_vit.training.state import State
from t2t_vit.training.tensorboard import ShowInputs, TensorBoard, write_graph


def follow(
    job: Job, trained: Trained, state: State, loader: TrainLoader, classes: Sequence[str]
) -> tuple[TrainBatches, list[Callback]]:
    """The batches and what follows the run: log, bar, summary and checkpoints, in the first process alone."""
    if not job.processes.is_first:
        return loader, []
    config, count = job.config, job.processes.count
    history = History(job.folders.logs)
    journal = Journal(
        state, job.console, device=job.device, every=config.print_loss_every, history=history, processes=count
    )
    board = TensorBoard(state, job.folders.summary, every=config.summary_loss_collect_freq, processes=count)
    batches: TrainBatches = loader
    if config.collect_input_data:
        batches = ShowInputs(loader, board.writer, mean=list(config.mean), std=list(config.std))
    if config.dump_graph:
        _dump_graph(job, trained, board)
    return batches, [*_bar(job, state), journal, board, _checkpoints(job, trained, classes)]


def _checkpoints(job: Job, trained: Trained, classes: Sequence[str]) -> Checkpoints:
    config = job.config
    return Checkpoints(
        job.folders.checkpoints,
        job.folders.best,
        Identity(config.arch, config.to_dict(), classes, to_yaml(config)),
        trained,
        keep_num=config.ckpt_keep_num,
        best_num=config.best_ckpt_num,
        every_steps=config.ckpt_save_every_step,
        every_seconds=config.ckpt_save_every_seconds,
        note=job.note,
    )


def _bar(job: Job, state: State) -> list[Callback]:
    if not job.console.live:
        return []
    from t2t_vit.training.progress import LiveBar

    return [LiveBar(state, job.console, device=job.device, processes=job.processes.count)]


def _dump_graph(job: Job, trained: Trained, board: TensorBoard) -> None:
    size = assembly.preprocessing_of(job.config).image_size
    images = torch.zeros(2, job.config.in_chans, *size, device=job.device)
    graph = write_graph(board.writer, trained.model, images)
    path = job.folders.summary / "graph.txt"
    with atomic_write(path, "w") as file:
        file.write(graph)
    job.note(f"the model's graph is in {path} and in the summary")
