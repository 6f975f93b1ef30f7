"""A teacher, and the losses by which a student learns from its answers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, K) in float32 and what they should be


def _unchanged(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Teacher:
    """A trained network, asked about the very images that the student sees; no gradient reaches it.

    Attributes:
        network: images -> logits (B, K'), or score maps (B, K', h, w), in eval mode.
        view: the student's images -> the network's, see `data.conversion.Conversion`.
        columns: (K,) the network's class for each of the student's; None: both have the same classes.
        autocast: makes the context that the network runs in.
        digest: tells its weights from others, in checkpoints.
    """

    network: Callable[[Tensor], Tensor]
    view: Callable[[Tensor], Tensor] = _unchanged
    columns: Tensor | None = None
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    digest: int = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's images (B, C, H, W), augmented and mixed -> float32 (B, K), or (B, K, h, w)."""
        with self.autocast():
            logits = self.network(self.view(images)).float()  # (B, K')
        return logits if self.columns is None else logits.index_select(1, self.columns)  # (B, K)


@dataclass(frozen=True)
class Distillation:
    """loss = (1 - weight) L + weight D, for the loss L by the targets and the loss D by the teacher's answers.

    Attributes:
        teacher: images -> answers, logits (B, K) in float32 without a gradient.
        loss: D of logits and answers; `soft_loss` or `hard_loss`.
    """

    teacher: Callable[[Tensor], Tensor]
    loss: Loss
    weight: float

    def about(self, images: Tensor, loss: Loss, _step: int = 0, _part: int = 0) -> Loss:
        """The loss of logits (B, K) and targets for these images, with `loss` as L; the teacher is asked at once."""
        answers = self.teacher(images)  # (B, K)

        def mixed(logits: Tensor, targets: Tensor) -> Tensor:
            return (1 - self.weight) * loss(logits, targets) + self.weight * self.loss(logits, answers)

        return mixed


class Mixing(Protocol):
    """How the tokens of a batch are mixed, and what belongs to them."""

    def begin(self, grid: tuple[int, int], step: int, part: int) -> None:
        """Choose what is mixed in batch number `part` of update number `step`."""

    def tokens(self, tokens: Tensor) -> Tensor:
        """What belongs to each token, (B, N, C)."""

    def targets(self, targets: Tensor) -> Tensor:
        """What belongs to each image, (B, K)."""


@dataclass(frozen=True)
class TokenDistillation:
    """loss = (1 - weight) L + weight D, D of the teacher's scores for each token (Jiang et al. 2021, arXiv 2104.10858).

    Attributes:
        teacher: images -> score maps, logits (B, K, h, w) in float32 without a gradient.
        grid: (height, width) of an image -> (rows, columns) of the student's tokens.
        mixing: MixToken, which mixes the tokens within the student too; None: it is off.
    """

    teacher: Callable[[Tensor], Tensor]
    weight: float
    grid: Callable[[tuple[int, int]], tuple[int, int]]
    mixing: Mixing | None = None

    def about(self, images: Tensor, loss: Loss, step: int = 0, part: int = 0) -> Loss:
        """The loss of logits (B, 1 + N, K), those of the image first, and targets (B, K), with `loss` as L."""
        height, width = images.shape[-2:]
        grid, mixing = self.grid((height, width)), self.mixing
        labels = token_labels(self.teacher(images), grid)  # (B, N, K)
        if mixing is not None:
            mixing.begin(grid, step, part)
            labels = mixing.tokens(labels)

        def mixed(logits: Tensor, targets: Tensor) -> Tensor:
            if mixing is not None:
                targets = mixing.targets(targets)
            by_targets = loss(logits[:, 0], targets)
            return (1 - self.weight) * by_targets + self.weight * token_loss(logits[:, 1:], labels)

        return mixed


Guidance = Distillation | TokenDistillation


def token_labels(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Score maps, logits (B, K, h, w), at the places of `grid`: probabilities (B, N, K), row by row."""
    if maps.shape[-2:] != grid:
        maps = interpolate(maps, grid, mode="bilinear", antialias=True)
    return maps.flatten(2).transpose(1, 2).softmax(dim=2)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, N, K) with labels (B, N, K), the mean over images and tokens: ()."""
    return cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1))


def soft_loss(logits: Tensor, answers: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(answers / T) || softmax(logits / T)), the mean over the batch; (B, K), (B, K) -> ().

    With T^2 its gradient keeps its size whatever the temperature (Hinton et al. 2015, arXiv 1503.02531).
    """
    log_p, log_q = log_softmax(answers / temperature, dim=1), log_softmax(logits / temperature, dim=1)
    return temperature**2 * kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def hard_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy with the teacher's first choice as the class; (B, K), (B, K) -> ().

    As in DeiT (Touvron et al. 2020, arXiv 2012.12877), but of the one head that there is: a distillation token would
    be another network, whose state dict is not the published one.
    """
    return cross_entropy(logits, answers.argmax(dim=1))
