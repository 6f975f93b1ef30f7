"""The run in TensorBoard."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from t2t_vit.errors import UserError
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.loop import TrainBatches
from t2t_vit.training.state import State
from t2t_vit.training.step import Batch, StepMetrics
from t2t_vit.training.window import Window


class TensorBoard(Callback):
    """Scalars into `folder`: train/* every `every` steps (0: none), raw/* and ema/* after each evaluation.

    The x axis is the number of updates.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, state: State, folder: Path, *, every: int = 20, processes: int = 1) -> None:
        try:
            self.writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); name another summary_root_dir") from error
        self._every, self._window = every, Window(state, processes)

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        if not self._every:
            return
        self._window.add(metrics)
        if state.step % self._every == 0:
            reading = self._window.read()
            scalars = {
                "train/loss": reading.loss,
                "train/lr": state.lr,
                "train/grad_norm": reading.grad_norm,
                "train/skipped_updates": reading.skipped,
                "train/loss_scale": reading.scale,
                "speed/images_per_second": reading.images_per_second,
                "speed/data_wait": reading.data_wait,
            }
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, state.step)

    def on_epoch(self, state: State) -> None:
        for weights, metrics in state.results.items() if state.evaluated else ():
            for name in ("loss", "top1", "top5"):
                self.writer.add_scalar(f"{weights}/{name}", getattr(metrics, name), state.step)

    def close(self) -> None:
        self.writer.close()


class ShowInputs:
    """A loader that passes everything through and keeps the first batch of each epoch as a grid of images.

    Args:
        mean, std: of each channel, which the images were normalised with.
        count: images in the grid, at most.
    """

    def __init__(
        self, loader: TrainBatches, writer: SummaryWriter, *, mean: list[float], std: list[float], count: int = 64
    ) -> None:
        self._loader, self._writer, self._count = loader, writer, count
        self._mean, self._std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's own batches."""
        for index, (images, targets) in enumerate(self._loader.epoch(epoch, start)):
            if index == 0:
                shown = images[: self._count].float().cpu() * self._std + self._mean  # (N, C, H, W)
                self._writer.add_image("inputs/augmented", grid(shown.clamp(0, 1)), epoch * len(self) + start)
            yield images, targets


def grid(images: Tensor, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) side by side in a square of rows, (3, H', W'), `gap` white pixels between them."""
    if images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    count, _, height, width = images.shape
    columns = int(count**0.5 + 0.999)
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def write_graph(writer: SummaryWriter, model: nn.Module, images: Tensor) -> str:
    """The graph of `model` on `images` (B, C, H, W), as torch.export sees it, into the summary; also returned."""
    was_training = model.training
    try:
        graph = str(torch.export.export(model.eval(), (images,)).graph)
    finally:
        model.train(was_training)
    writer.add_text("model/graph", f"```\n{graph}\n```")
    return graph
