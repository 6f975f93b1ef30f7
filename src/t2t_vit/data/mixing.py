"""Mixup, cutmix and label smoothing of a batch on its device.

Mixup: Zhang et al., arXiv 1710.09412. Cutmix: Yun et al., arXiv 1905.04899. Images 2 j and 2 j + 1 of the global batch
are mixed with each other. timm, and so the authors' recipe, takes the mirror image in the batch of each process; in a
random order that is the same thing, but neighbours are together in one process however many there are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.erasing import inside
from t2t_vit.data.share import Share

MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class Draw:
    """n random mixes: a whole batch's one (n = 1) or one an image.

    Attributes:
        keep: (n,) the share of the image itself, lambda; of the partner 1 - keep.
        boxes: (n, 4) the partner's pixels where the mix is a cutmix: top, bottom, left, right.
        cut: (n,) whether it is.
    """

    keep: NDArray[np.float64]
    boxes: NDArray[np.int64]
    cut: NDArray[np.bool_]


@dataclass(frozen=True)
class Mixing:
    """Mixup: x_i keep + x_j (1 - keep); cutmix: a box of x_j in x_i, keep = 1 - its real area. Targets mix alike.

    Args:
        mixup, cutmix: keep follows Beta(alpha, alpha) of that alpha; 0 switches the one off.
        prob: probability that a global batch (or pair, or image) is mixed.
        switch_prob: probability of cutmix where both are on.
        mode: one draw for a global `batch`, for a `pair` of images, or for every image (`elem`).
        off_epoch: from that epoch on (the first is 0) nothing is mixed; 0 = never off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"
    off_epoch: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mixup_mode is {self.mode!r}; choose from {', '.join(MODES)}")

    def active(self, epoch: int) -> bool:
        """Whether images of that epoch can be mixed at all."""
        on = (self.mixup > 0.0 or self.cutmix > 0.0) and self.prob > 0.0
        return on and not (0 < self.off_epoch <= epoch)

    def __call__(
        self, images: Tensor, targets: Tensor, share: Share, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The own samples of `share`, mixed: (B, C, H, W) images, (B, K) soft targets.

        Args:
            images, targets: of `share.own`, and behind them of `share.strangers`.
            rng: the same in every process, which all make the draws of the whole batch.
        """
        height, width = images.shape[-2:]
        own, own_targets = images[: share.count], targets[: share.count]
        draw = self._for_share(share, height, width, rng)
        if bool((draw.keep == 1.0).all()):
            return own, own_targets
        rows = torch.from_numpy(share.partner_rows()).to(images.device, non_blocking=True)
        keep = torch.from_numpy(draw.keep).to(images.device, torch.float32, non_blocking=True)
        kept: Tensor = keep.view(-1, 1, 1, 1)
        if draw.cut.any():
            cut = torch.from_numpy(draw.cut).to(images.device, non_blocking=True).view(-1, 1, 1, 1)
            outside = ~inside(draw.boxes, height, width, images.device)
            kept = torch.where(cut, outside.to(torch.float32), kept)
        mixed = images.index_select(0, rows).lerp(own, kept.to(images.dtype))
        return mixed, targets.index_select(0, rows).lerp(own_targets, keep.view(-1, 1).to(targets.dtype))

    def _for_share(self, share: Share, height: int, width: int, rng: np.random.Generator) -> Draw:
        if self.mode == "batch":
            return self.draw(1, height, width, rng)
        pairs = self.mode == "pair"
        draw = self.draw((share.size + 1) // 2 if pairs else share.size, height, width, rng)
        own = share.own // 2 if pairs else share.own
        return Draw(draw.keep[own], draw.boxes[own], draw.cut[own])

    def draw(self, count: int, height: int, width: int, rng: np.random.Generator) -> Draw:
        """`count` independent mixes of images of that size; keep is 1 where nothing is mixed."""
        cut = np.full(count, self.cutmix > 0.0)
        if self.mixup > 0.0:
            cut &= rng.random(count) < self.switch_prob
        by_mixup = rng.beta(self.mixup, self.mixup, count) if self.mixup > 0.0 else np.ones(count)
        by_cutmix = rng.beta(self.cutmix, self.cutmix, count) if self.cutmix > 0.0 else np.ones(count)
        keep = np.where(rng.random(count) < self.prob, np.where(cut, by_cutmix, by_mixup), 1.0)
        boxes = _boxes(keep, height, width, rng)
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        return Draw(np.where(cut, 1.0 - area / (height * width), keep), boxes, cut)


def _boxes(keep: NDArray[np.float64], height: int, width: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n, 4) boxes of the share 1 - keep about uniform centres, cut off at the borders."""
    side = np.sqrt(1.0 - keep)
    tall, wide = (side * height).astype(np.int64), (side * width).astype(np.int64)
    row, column = rng.integers(height, size=len(keep)), rng.integers(width, size=len(keep))
    top, left = row - tall // 2, column - wide // 2
    bounds = [np.clip(top, 0, height), np.clip(top + tall, 0, height)]
    bounds += [np.clip(left, 0, width), np.clip(left + wide, 0, width)]
    return np.stack(bounds, axis=1)


def soft_targets(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B,) classes -> (B, K) float32: 1 - s + s / K for the class, s / K for the others (arXiv 1512.00567)."""
    off = smoothing / num_classes
    soft = torch.full((len(targets), num_classes), off, device=targets.device)
    return soft.scatter_(1, targets.view(-1, 1), 1.0 - smoothing + off)
