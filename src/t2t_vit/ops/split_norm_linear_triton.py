"""Starting the Triton kernels of split + LayerNorm + Linear on CUDA tensors, or in Triton's interpreter."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2t_vit.ops import split_norm_linear_jit as jit
from t2t_vit.ops.soft_split import Window


class Blocks(NamedTuple):
    """How a kernel is cut: its tile of what it writes, `rows` by `columns`, and how much it sums over at a time."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 2


class Form(NamedTuple):
    """How the numbers of a window are laid out; see `split_norm_linear_jit`.

    Attributes:
        last: a line is a place's channels; else a row of pixels.
        lines: of a window.
        side: numbers of a line, filled up.
        real: those of them that are the window's own.
    """

    last: bool
    lines: int
    side: int
    real: int

    @property
    def length(self) -> int:
        return self.lines * self.side


# Fixed, so that no run begins with a search. A tile of PRODUCT holds all columns of an answer, so that a window is
# gathered once; float32 products need too many registers for that.
PRODUCT = Blocks(64, 256, 32, warps=8)
PRODUCT_FLOAT32 = Blocks(64, 64, 32)
CORRELATION = Blocks(64, 256, 64, warps=8)
CORRELATION_FLOAT32 = Blocks(64, 64, 64)
TO_FEATURES = Blocks(64, 64, 32)
# The parameters' gradients are summed over parts of the batch: so many that about this number of programs run, each
# of at least so many windows.
PROGRAMS, PART_WINDOWS = 264, 2048
FARTHEST = 2**30


def form(features: Tensor, window: Window) -> Form:
    """How windows of these features are laid out."""
    channels, kernel = features.shape[1], window.kernel
    last = features.stride(1) == 1 and channels > kernel
    lines, real = (kernel**2, channels) if last else (channels * kernel, kernel)
    return Form(last, lines, 1 << (real - 1).bit_length(), real)


def product(
    features: Tensor, weight: Tensor, offset: Tensor, window: Window, eps: float, blocks: Blocks | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x^ times `weight` (length, out), plus `offset` (out,): (B, N, out) in the weight's dtype.

    And mean and reciprocal deviation of each window, (B, N) twice, in float32.
    """
    rows, columns = window.grid(features)
    mean, rstd = (features.new_empty(len(features), rows * columns, dtype=torch.float32) for _ in range(2))
    out = features.new_empty(*mean.shape, weight.shape[1], dtype=weight.dtype)
    blocks = _cut(blocks, PRODUCT, PRODUCT_FLOAT32, weight)
    grid = (_tiles(mean.numel(), blocks.rows) * _tiles(weight.shape[1], blocks.columns),)
    with _on(features):
        jit.product[grid](
            features,
            mean,
            rstd,
            weight,
            offset,
            out,
            *_tokens(mean, features, window),
            eps,
            *_fixed(features, window),
            weight.shape[1],
            _precision(),
            *blocks[:3],
            **_launch(blocks),
        )
    return out, mean, rstd


def correlation(
    grad: Tensor, features: Tensor, mean: Tensor, rstd: Tensor, window: Window, blocks: Blocks | None = None
) -> Tensor:
    """The sum over windows of x^ u^T, for the gradient u (B, N, out): (length, out) in float32."""
    tokens, out, length = mean.numel(), grad.shape[2], form(features, window).length
    blocks = _cut(blocks, CORRELATION, CORRELATION_FLOAT32, grad)
    tiles = _tiles(out, blocks.columns) * _tiles(length, blocks.rows)
    # Whole steps, so that no part looks at a window of the next; offsets from its first image fit into 32 bits.
    part = min(
        max(PART_WINDOWS, _tiles(tokens, _tiles(PROGRAMS, tiles))), mean.shape[1] * FARTHEST // features[0].numel()
    )
    part = max(1, _tiles(part, blocks.depth)) * blocks.depth
    count = _tiles(tokens, part)
    parts = features.new_empty(count, length, out, dtype=torch.float32)
    with _on(features):
        jit.correlation[(tiles * count,)](
            grad,
            features,
            mean,
            rstd,
            parts,
            *_tokens(mean, features, window),
            part,
            *_fixed(features, window),
            out,
            _precision(),
            *blocks[:3],
            **_launch(blocks),
        )
    return parts.sum(0)


def to_features(
    grad: Tensor,
    features: Tensor,
    moments_and_sums: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor,
    window: Window,
    blocks: Blocks = TO_FEATURES,
) -> Tensor:
    """The gradient of the features from that of the answer, (B, N, out), and `weight` (n, out)."""
    back = torch.empty_like(features)
    images, channels, height, width = features.shape
    stride = window.stride
    # Pixels that lie alike in their windows, and the padding in front of them.
    tall, wide = _tiles(height + window.padding, stride), _tiles(width + window.padding, stride)
    pixels = images * tall * wide
    # A tile holds the channels of a pixel; of three, most of 64 would be idle.
    across = min(blocks.columns, max(16, 1 << (channels - 1).bit_length()))
    with _on(features):
        jit.to_features[(_tiles(pixels, blocks.rows) * _tiles(channels, across) * stride**2,)](
            grad,
            features,
            *moments_and_sums,
            weight,
            back,
            pixels,
            tall,
            wide,
            *window.grid(features),
            *_map(features),
            *back.stride(),
            *_fixed(features, window),
            grad.shape[2],
            _precision(),
            blocks.rows,
            across,
            blocks.depth,
            **_launch(blocks),
        )
    return back


def _tiles(length: int, tile: int) -> int:
    return -(-length // tile)


def _map(features: Tensor) -> tuple[int, ...]:
    """Height, width and the four strides."""
    return (*features.shape[2:], *features.stride())


def _tokens(mean: Tensor, features: Tensor, window: Window) -> tuple[int, ...]:
    """Windows of the batch, of an image, of a row of it, and the map that they are taken from."""
    return mean.numel(), mean.shape[1], window.grid(features)[1], *_map(features)


def _fixed(features: Tensor, window: Window) -> tuple[int, ...]:
    """What kernels are compiled for: channels, the window, and its form."""
    made = form(features, window)
    # Two pixels side by side lie inside or outside together, and can be loaded at once.
    even = not made.last and features.stride(3) == 1
    even = even and window.stride % 2 == window.padding % 2 == features.shape[3] % 2 == 0
    return features.shape[1], *window, made.last, made.side, 2 if even and made.side > 1 else 1, made.length


def _cut(asked: Blocks | None, half: Blocks, wide: Blocks, factor: Tensor) -> Blocks:
    """The blocks asked for, or those for the precision of `factor`, no wider than it needs."""
    blocks = asked or (half if factor.dtype.itemsize == 2 else wide)
    needed = max(16, 1 << (factor.shape[-1] - 1).bit_length())
    return blocks._replace(columns=min(blocks.columns, needed))


def _precision() -> str:
    """How float32 is multiplied; the other dtypes do not ask."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _launch(blocks: Blocks) -> dict[str, Any]:
    # Triton 3.9 warns where the fusion of products and sums is left to it.
    return {"num_warps": blocks.warps, "num_stages": blocks.stages, "enable_fp_fusion": True}


def _on(features: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, whichever tensors they are for."""
    return torch.cuda.device(features.device) if features.is_cuda else nullcontext()
