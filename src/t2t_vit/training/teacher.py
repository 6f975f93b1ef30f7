"""A teacher, and the losses by which a student learns from its answers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (B, K) in float32 and what they should be


def _unchanged(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Teacher:
    """A trained network, asked about the very images that the student sees; no gradient reaches it.

    Attributes:
        network: images -> logits (B, K'), in eval mode.
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
        """The student's images (B, C, H, W), augmented and mixed -> logits (B, K) in float32, as the student's."""
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

    def about(self, images: Tensor, loss: Loss) -> Loss:
        """The loss of logits (B, K) and targets for these images, with `loss` as L; the teacher is asked at once."""
        answers = self.teacher(images)  # (B, K)

        def mixed(logits: Tensor, targets: Tensor) -> Tensor:
            return (1 - self.weight) * loss(logits, targets) + self.weight * self.loss(logits, answers)

        return mixed


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
