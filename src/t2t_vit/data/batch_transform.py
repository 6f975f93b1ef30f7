"""The training transform of a batch, on its device: normalise -> erase -> mix, in the order of the authors' recipe.

Random erasing: Zhong et al., arXiv 1708.04896; area and ratio as timm draws them. Mixup: Zhang et al.,
arXiv 1710.09412. Cutmix: Yun et al., arXiv 1905.04899. Images 2 j and 2 j + 1 of the global batch are mixed with each
other. timm, and so the authors' recipe, mixes an image with its mirror image in the batch of each process; in a random
order that is the same thing, but neighbours are in one process however many processes there are.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.seeds import Keys, Purpose, generator, keys, normals, uniforms
from t2t_vit.ops.splitmix import words

Positions = NDArray[np.int64]

ERASING_MODES = ("const", "rand", "pixel")
_ERASING_ATTEMPTS = 10
_ERASING_AREA = (0.02, 1 / 3)
_ERASING_LOG_RATIO = math.log(1 / 0.3)

MIXING_MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class Share:
    """Samples number `first` to `first + count - 1` of the `size` that all processes have together.

    Attributes:
        batch: which batch of its epoch it is, from 0.
    """

    batch: int
    first: int
    count: int
    size: int

    @property
    def own(self) -> Positions:
        """The positions of this process in the global batch."""
        return np.arange(self.first, self.first + self.count)

    @property
    def strangers(self) -> Positions:
        """Partners of its own samples that are another process's: none where `first` and `count` are even."""
        wanted = partners(self.own, self.size)
        return wanted[(wanted < self.first) | (wanted >= self.first + self.count)]

    def partner_rows(self) -> Positions:
        """Where each own sample's partner lies in a batch of `own`, then `strangers`."""
        rows = {position: row for row, position in enumerate([*self.own.tolist(), *self.strangers.tolist()])}
        return np.array([rows[position] for position in partners(self.own, self.size).tolist()], np.int64)


def partners(positions: Positions, size: int) -> Positions:
    """The sample that each is mixed with: neighbours 2 j and 2 j + 1; the last of an odd number is left with itself."""
    neighbours = positions ^ 1
    return np.where(neighbours < size, neighbours, positions)


@dataclass(frozen=True)
class RandomErasing:
    """Fill random boxes of some normalised images with other values.

    Args:
        prob: probability that an image is erased.
        mode: `const` fills with 0, `rand` with a normal colour a box, `pixel` with normal noise.
        max_count: an image gets 1 to `max_count` boxes (uniform), each of area uniform in 0.02..1/3 of the image,
            divided by their number, and height / width log-uniform in 0.3..1/0.3.
    """

    prob: float = 0.0
    mode: str = "pixel"
    max_count: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ERASING_MODES:
            raise ValueError(f"re_mode is {self.mode!r}; choose from {', '.join(ERASING_MODES)}")
        if self.max_count < 1:
            raise ValueError(f"re_count is {self.max_count}; it must be at least 1")

    def __call__(self, images: Tensor, seed: int, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        """Erase in place: (B, C, H, W) float on any device, `indices` the (B,) numbers of the samples.

        What happens to a sample depends on (seed, epoch, index) alone.
        """
        height, width = images.shape[-2:]
        draws = keys(seed, epoch, indices, Purpose.ERASE)
        chosen = np.flatnonzero(uniforms(draws, 1)[:, 0] < self.prob)
        if len(chosen) == 0:
            return images
        boxes = self._boxes(draws[chosen], height, width)
        noise_keys = keys(seed, epoch, indices[chosen], Purpose.ERASE_NOISE)
        rows = torch.from_numpy(chosen).to(images.device, non_blocking=True)
        erased = images.index_select(0, rows)
        for box, fill in zip(boxes, self._fills(erased, noise_keys), strict=True):
            erased = torch.where(inside(box, height, width, images.device), fill, erased)
        return images.index_copy_(0, rows, erased)

    def _boxes(self, draws: Keys, height: int, width: int) -> NDArray[np.int64]:
        """(max_count, n, 4) boxes as top, bottom, left, right; empty ones where an image has fewer."""
        numbers = uniforms(draws, 2 + self.max_count * _ERASING_ATTEMPTS * 4)
        count = 1 + np.floor(numbers[:, 1] * self.max_count)
        attempts = numbers[:, 2:].reshape(-1, self.max_count, _ERASING_ATTEMPTS, 4)
        low, high = _ERASING_AREA
        area = (low + (high - low) * attempts[..., 0]) * (height * width) / count[:, None, None]
        ratio = np.exp((2.0 * attempts[..., 1] - 1.0) * _ERASING_LOG_RATIO)
        tall, wide = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        first = fits.argmax(axis=2)[..., None]
        used = fits.any(axis=2) & (np.arange(self.max_count) < count[:, None])
        tall, wide, top, left = (
            np.take_along_axis(values, first, axis=2)[..., 0]
            for values in (tall, wide, attempts[..., 2], attempts[..., 3])
        )
        top, left = np.floor(top * (height - tall + 1)), np.floor(left * (width - wide + 1))
        boxes = np.stack([top, top + tall, left, left + wide], axis=-1) * used[..., None]
        return np.ascontiguousarray(boxes.astype(np.int64).transpose(1, 0, 2))

    def _fills(self, images: Tensor, noise_keys: Keys) -> list[Tensor]:
        """What the boxes of each turn are filled with: broadcasts to (n, C, H, W)."""
        if self.mode == "const":
            return [images.new_zeros(())] * self.max_count
        if self.mode == "pixel":
            return [pixel_noise(noise_keys, images)] * self.max_count
        channels = images.shape[1]
        colours = normals(noise_keys, self.max_count * channels).astype(np.float32)
        on_device = torch.from_numpy(colours).to(images.device, images.dtype, non_blocking=True)
        return list(on_device.view(-1, self.max_count, channels, 1, 1).unbind(1))


def inside(boxes: NDArray[np.int64], height: int, width: int, device: torch.device) -> Tensor:
    """(n, 4) boxes as top, bottom, left, right -> bool (n, 1, H, W), true within."""
    edges = torch.from_numpy(boxes).to(device, non_blocking=True).view(-1, 4, 1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= edges[:, 0]) & (rows < edges[:, 1])
    in_columns = (columns >= edges[:, 2]) & (columns < edges[:, 3])
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)


def pixel_noise(noise_keys: Keys, images: Tensor) -> Tensor:
    """Standard normal numbers like `images`, (n, C, H, W), a function of each image's key and the position.

    The n-th pair of numbers comes from the n-th SplitMix64 output of the key (Box and Muller 1958), computed on the
    device: an image's noise is the same in every batch and on every device, except for the rounding of log and cos.
    """
    count = images[0].numel()
    start = torch.from_numpy(noise_keys.view(np.int64)).to(images.device, non_blocking=True)
    bits = words(start, 1, (count + 1) // 2)
    first = ((bits >> 40) & 0xFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-24)
    angle = (bits & 0xFFFFFF).to(torch.float32).mul_(2.0 * math.pi * 2.0**-24)
    radius = first.log_().mul_(-2.0).sqrt_()
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pairs[:, :count].view_as(images).to(images.dtype)


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
        if self.mode not in MIXING_MODES:
            raise ValueError(f"mixup_mode is {self.mode!r}; choose from {', '.join(MIXING_MODES)}")

    def is_active(self, epoch: int) -> bool:
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


@dataclass(frozen=True)
class BatchTransform:
    """uint8 images and classes -> normalised, erased, mixed images and soft targets.

    Erasing depends on (seed, epoch, index) of each sample; mixing, which needs partners, on (seed, epoch, batch) and
    the place in the global batch. Nothing waits for the device.
    """

    preprocessing: Preprocessing
    num_classes: int
    erasing: RandomErasing = field(default_factory=RandomErasing)
    mixing: Mixing = field(default_factory=Mixing)
    label_smoothing: float = 0.0
    seed: int = 0

    def __call__(
        self, images: Tensor, targets: Tensor, epoch: int, indices: NDArray[np.int64], share: Share
    ) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W), int64 (N,), the samples' numbers (N,) -> float32 (B, C, H, W), float32 (B, K).

        N samples are the B own ones of `share` and, in an epoch with mixing, its strangers.
        """
        floats = self.erasing(self.preprocessing.normalize(images), self.seed, epoch, indices)
        soft = soft_targets(targets, self.num_classes, self.label_smoothing)
        if not self.mixing.is_active(epoch):
            return floats, soft
        return self.mixing(floats, soft, share, generator(self.seed, epoch, share.batch, Purpose.MIX))
