"""One answer an image: what every table and picture of an evaluation is made of."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t2t_vit.evaluation.metrics import counting_device, ranks

NO_ANSWER = -1
_SEEN, _TARGET, _PREDICTED, _CONFIDENCE, _LOSS, _RANK = range(6)


@dataclass(frozen=True)
class Outcomes:
    """The answers to N images, in the order of their set, on the CPU.

    target       (N,) int64
    predicted    (N,) int64, `NO_ANSWER` where the logits held a NaN
    confidence   (N,) float64, the probability of what was predicted; 0 where there is no answer
    loss         (N,) float64, cross-entropy in nats
    rank         (N,) int64, how many classes came before the right one
    """

    target: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: Tensor
    rank: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def right(self) -> Tensor:
        """(N,) bool."""
        return self.rank < 1


@torch.no_grad()
def collect(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    numbers: Sequence[int],
    total: int,
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Outcomes:
    """Run `model` in eval mode over `batches`; its mode is restored.

    Six numbers an image are kept, on the device until the end: 2.4 MB for 50,000 images, whatever the class count.
    Several processes each fill in their own images and add the tables up, so that nothing is counted twice.

    Args:
        batches: images (B, C, H, W) and class numbers (B,), on the model's device: this process's share.
        numbers: of these images, in their order, among all `total` ones.
        reduce: adds a tensor up over the processes; called once, after the last batch.

    Raises:
        RuntimeError: the shares are not all images, each once.
    """
    device = counting_device(model)
    table = torch.zeros(total, 6, dtype=torch.float64, device=device)
    was_training, done = model.training, 0
    model.eval()
    try:
        for images, targets in batches:
            with autocast():
                logits = model(images)  # (B, K)
            rows = torch.tensor(numbers[done : done + len(images)], device=device)
            table[rows] += _rows(logits.to(device, torch.float64), targets.to(device))
            done += len(images)
    finally:
        model.train(was_training)
    table = (table if reduce is None else reduce(table)).cpu()
    if not bool((table[:, _SEEN] == 1).all()):
        raise RuntimeError("the shares of the processes are not all images, each once")
    columns = [column.contiguous() for column in table.unbind(1)]
    return Outcomes(
        columns[_TARGET].long(),
        columns[_PREDICTED].long(),
        columns[_CONFIDENCE],
        columns[_LOSS],
        columns[_RANK].long(),
    )


def _rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits (B, K) in float64 and class numbers (B,) -> (B, 6)."""
    unclear = logits.isnan().any(1)  # (B,)
    logs = logits.log_softmax(1)
    predicted = logits.argmax(1)  # the first of equal ones, as `ranks` has it
    confidence = logs.gather(1, predicted[:, None])[:, 0].exp()
    rank = ranks(logits, targets).clamp(max=logits.shape[1]).to(logits)
    columns = {
        _SEEN: torch.ones_like(confidence),
        _TARGET: targets.to(logits),
        _PREDICTED: predicted.to(logits).masked_fill(unclear, NO_ANSWER),
        _CONFIDENCE: confidence.nan_to_num(1.0).masked_fill(unclear, 0.0),  # 1: an infinite logit
        _LOSS: -logs.gather(1, targets[:, None])[:, 0],
        _RANK: rank,
    }
    return torch.stack([columns[name] for name in sorted(columns)], 1)
