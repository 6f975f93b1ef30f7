"""The numbers of a run, handed to whoever shows them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from t2t_vit.training.callbacks import Callback
from t2t_vit.training.loop import TrainBatches
from t2t_vit.training.state import State
from t2t_vit.training.step import Batch, StepMetrics
from t2t_vit.training.tracker import Tracker
from t2t_vit.training.window import ON_ONE_CPU, Instruments, Reading, Window


class Summary(Callback):
    """Tells each tracker train/*, speed/* and memory/* every `every` steps (0: none), raw/* and ema/* if evaluated.

    A number that is not known, or not finite, is left out.
    """

    def __init__(
        self, state: State, trackers: Sequence[Tracker], *, every: int = 20, instruments: Instruments = ON_ONE_CPU
    ) -> None:
        self._trackers, self._every, self._window = trackers, every, Window(state, instruments)

    def on_step(self, state: State, metrics: StepMetrics) -> None:
        if not self._every:
            return
        self._window.add(metrics)
        if state.step % self._every == 0:
            self._tell(state, scalars_of(state, self._window.read()))

    def on_epoch(self, state: State) -> None:
        if state.evaluated:
            self._tell(
                state,
                {
                    f"{weights}/{name}": getattr(metrics, name)
                    for weights, metrics in state.results.items()
                    for name in ("loss", "top1", "top5")
                },
            )

    def state_dict(self) -> dict[str, Any]:
        return {"window": self._window.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._window.load_state_dict(state["window"] if state else {})

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()

    def _tell(self, state: State, values: dict[str, float]) -> None:
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.scalars(state.step, known)


def scalars_of(state: State, reading: Reading) -> dict[str, float]:
    """A reading under the names that trackers show."""
    return {
        "train/loss": reading.loss,
        "train/lr": state.lr,
        "train/grad_norm": reading.grad_norm,
        "train/param_norm": reading.param_norm,
        "train/update_norm": reading.update_norm,
        "train/skipped_updates": reading.skipped,
        "train/loss_scale": reading.scale,
        "speed/images_per_second": reading.images_per_second,
        "speed/data_wait": reading.data_wait,
        "speed/mfu": reading.mfu,
        "memory/peak_gb": reading.memory / 1e9,
    }


class ShowInputs:
    """A loader that passes everything through and shows the first batch of each epoch as a grid of images.

    Args:
        mean, std: of each channel, which the images were normalised with.
        count: images in the grid, at most.
    """

    def __init__(
        self,
        loader: TrainBatches,
        trackers: Sequence[Tracker],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        count: int = 64,
    ) -> None:
        self._loader, self._trackers, self._count = loader, trackers, count
        self._mean, self._std = (torch.tensor(list(values))[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's own batches."""
        for index, (images, targets) in enumerate(self._loader.epoch(epoch, start)):
            if index == 0:
                shown = images[: self._count].float().cpu() * self._std + self._mean  # (N, C, H, W)
                picture = grid(shown.clamp(0, 1))
                for tracker in self._trackers:
                    tracker.image(epoch * len(self) + start, "inputs/augmented", picture)
            yield images, targets


def grid(images: Tensor, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) side by side in a square of rows, (3, H', W'), `gap` white pixels between them."""
    if images.shape[1] != 3:
        images = images[:, :3] if images.shape[1] > 3 else images[:, :1].expand(-1, 3, -1, -1)
    count, _, height, width = images.shape
    columns = int(count**0.5 + 0.999)
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
