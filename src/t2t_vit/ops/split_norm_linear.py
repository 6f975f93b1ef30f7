"""Soft split, LayerNorm and Linear as one operation, which never holds the windows of a whole batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from t2t_vit.ops.kernels import Implementation, available, cannot_run, choose, exporting, off_cpu, off_triton, on_cuda
from t2t_vit.ops.native import unavailable
from t2t_vit.ops.soft_split import Window, soft_split
from t2t_vit.ops.split_norm_linear_cpu import forward_by_pieces, split_norm_linear_cpu
from t2t_vit.ops.split_norm_linear_fused import fused


def split_norm_linear(
    features: Tensor,
    kernel: int,
    stride: int,
    padding: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    kernels: str = "auto",
) -> Tensor:
    """W LayerNorm(x) + b for each window x of a feature map; under autocast W's product is in the low precision.

    Args:
        features: (B, C, H, W), of any strides.
        kernel, stride, padding: of the windows, in pixels of the map, as in `soft_split`; n = C kernel kernel.
        norm_weight, norm_bias: of the LayerNorm, (n,), a window's channels varying slowest.
        eps: of the LayerNorm.
        weight, bias: of the linear layer, (out, n) and (out,).
        kernels: "reference" unfolds the batch and keeps its windows for the gradient. "cpu" makes a few rows of
            windows at a time, and makes them again for the gradient. "triton" gathers them on the chip, keeps a mean
            and a deviation a window, and computes the same from run to run. "auto" is the fastest of them for these
            tensors: "triton" on CUDA, on a CPU "cpu" where no gradient is recorded.

    Returns:
        (B, N, out), N windows row by row.

    Raises:
        UserError: the implementation asked for cannot compute this; see `choose`.
        ValueError: the weight is not for windows of this length.
    """
    if weight.shape[1] != features.shape[1] * kernel**2:
        raise ValueError(f"a weight {tuple(weight.shape)} for windows of {features.shape[1]} x {kernel} x {kernel}")
    row = choose(kernels, IMPLEMENTATIONS, features)
    out: Tensor = row.run(features, Window(kernel, stride, padding), norm_weight, norm_bias, eps, weight, bias)
    return out


def split_linear(
    features: Tensor, kernel: int, stride: int, padding: int, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """W x + b for each window x of a feature map (B, C, H, W), W of (out, C kernel kernel): (B, N, out).

    That is a convolution. It is taken where products are in half precision: there it is faster than unfolding and more
    exact; in float32 its errors on a CPU are twice as large, and on CUDA it would be in TF32.
    """
    if exporting() or product_dtype(features).itemsize != 2:
        return F.linear(soft_split(features, kernel, stride, padding), weight, bias)
    planes = weight.view(weight.shape[0], features.shape[1], kernel, kernel)
    return F.conv2d(features, planes, bias, stride, padding).flatten(2).transpose(1, 2)


def _reference(
    features: Tensor,
    window: Window,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    tokens = soft_split(features, *window)  # (B, N, n)
    if torch.is_grad_enabled() and not exporting() and not torch.compiler.is_compiling():
        tokens = tokens.contiguous()  # once: LayerNorm and its gradient would make each a copy of their own
    return F.linear(F.layer_norm(tokens, norm_weight.shape, norm_weight, norm_bias, eps), weight, bias)


def _by_pieces(
    features: Tensor,
    window: Window,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    dtype = product_dtype(features)
    # The first call of a registered operation imports what torch.compile needs, which takes seconds.
    seen = torch.is_grad_enabled() or torch.compiler.is_compiling()
    run = split_norm_linear_cpu if seen else forward_by_pieces
    return run(features, norm_weight, norm_bias, weight, bias, list(window), eps, dtype)


def _fused(
    features: Tensor,
    window: Window,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    dtype = product_dtype(features)
    return fused(features, norm_weight, norm_bias, weight, bias, list(window), eps, dtype)[0]


def product_dtype(features: Tensor) -> torch.dtype:
    """What a linear layer multiplies in here: autocast's precision, but for float64, which autocast leaves alone."""
    kind = features.device.type
    # The meta device knows no autocast.
    if kind != "meta" and features.dtype is not torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return features.dtype


def check_kernels(kernels: str, device: torch.device, *, predicts: bool = False) -> None:
    """Raises UserError where `kernels` cannot run on `device`, before anything is read or written.

    "native" ones only predict, and on a CPU: there the whole network is theirs, this operation with it.
    """
    if kernels == "native" and predicts and device.type == "cpu":
        reason = unavailable()
        if reason is not None:
            raise cannot_run(kernels, reason)
        return
    choose(kernels, IMPLEMENTATIONS, torch.empty(0, device=device))


def _no_gradient(inputs: Tensor) -> bool:
    return not torch.is_grad_enabled()


# The rows take the same arguments. What the first two call is registered with torch.library, so that torch.compile sees
# one node in its graph.
IMPLEMENTATIONS = (
    Implementation("triton", off_triton, _fused, preferred=on_cuda),
    Implementation("cpu", off_cpu, _by_pieces, preferred=_no_gradient),
    Implementation("reference", available, _reference),
)
