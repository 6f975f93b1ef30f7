"""The Tokens-to-Token module for inference on a CPU: channels last, some images at a time, by our kernels if they run.

What is different from the module that it is made of:

- windows are made channels last in long runs, and weights permuted to match;
- the norm's own weights are part of the linear layer behind it;
- its long tokens never exist for a whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.fast.native import can_attend, can_run_performer, native_attention, native_performer, native_windows
from t2t_vit.fast.packed_layers import PackedLinear, Tail, widened
from t2t_vit.model.tokens_to_token import TokenPerformer, TokensToToken, TokenTransformer
from t2t_vit.ops.attention import attention
from t2t_vit.ops.performer import EPSILON, performer_attention
from t2t_vit.variants import SoftSplit

TOKENS = 4 * 56 * 56  # of the first split, at a time: four images of 224 pixels
DEPTH = 32  # what a token's length is rounded up to: odd ones make products slow


class PackedTokens(nn.Module):
    """`TokensToToken` in eval mode."""

    def __init__(self, tokens: TokensToToken, native: bool) -> None:
        super().__init__()
        self.first = tokens.split0.split
        stages = ((tokens.split0, tokens.attention1), (tokens.split1, tokens.attention2))
        self.stages = nn.ModuleList(packed_stage(split.split, attention, native) for split, attention in stages)
        self.end = WindowsLinear(tokens.split2.split, None, tokens.project.weight, tokens.project.bias, native)

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W)
        rows, columns = self.first.grid(images.shape[2], images.shape[3])
        at_once = max(1, TOKENS // (rows * columns))
        return torch.cat([self._some(part) for part in torch.split(images, at_once)])  # (B, N, dim)

    def _some(self, features: Tensor) -> Tensor:
        for stage in self.stages:
            features = stage(features)  # (b, token_dim, rows, columns), channels last
        return self.end(features)


class WindowsLinear(nn.Module):
    """W LayerNorm(x) + b for each window x, or W x + b where there is no norm: (B, C, H, W) -> (B, N, out)."""

    def __init__(
        self, split: SoftSplit, norm: nn.LayerNorm | None, weight: Tensor, bias: Tensor | None, native: bool
    ) -> None:
        super().__init__()
        self.split, self.native, self.dtype = split, native, weight.dtype
        self.eps = None if norm is None else norm.eps
        self.size = weight.shape[1]
        self.length = -(-self.size // DEPTH) * DEPTH
        exact = weight.double()
        if norm is not None:  # W (g x + h) + b = (W g) x + (W h + b)
            shift = exact @ norm.bias.double()
            bias = shift if bias is None else shift + bias.double()
            exact = exact * norm.weight.double()
        windows = exact.view(len(exact), -1, split.kernel, split.kernel)
        order = windows.movedim(1, -1).flatten(1)  # (out, row column c)
        last = None if bias is None else bias.to(self.dtype)
        self.linear = PackedLinear(widened(order, self.length).to(self.dtype), last, native)

    def grid(self, features: Tensor) -> tuple[int, int]:
        """Rows and columns of windows."""
        return self.split.grid(features.shape[2], features.shape[3])

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W)
        return self.linear(self._windows(features))  # (B, N, out)

    def _windows(self, features: Tensor) -> Tensor:
        kernel, stride, padding = self.split.kernel, self.split.stride, self.split.padding
        if self.native:
            return native_windows(features, (kernel, stride, padding), self.length, self.dtype, self.eps)
        padded = F.pad(features.to(self.dtype).permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, rows, columns, C, k, k)
        tokens = windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)  # (B, N, k k C)
        if self.eps is not None:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=self.eps)
        return F.pad(tokens, (0, self.length - self.size))


def packed_stage(split: SoftSplit, attention: nn.Module, native: bool) -> nn.Module:
    """A soft split and the attention behind it."""
    if isinstance(attention, TokenPerformer):
        return PerformerStage(split, attention, native)
    assert isinstance(attention, TokenTransformer)
    return TransformerStage(split, attention, native)


class PerformerStage(nn.Module):
    """Windows, performer attention and its MLP: (B, C, H, W) -> (B, token_dim, rows, columns), channels last."""

    features: Tensor
    turned: Tensor

    def __init__(self, split: SoftSplit, performer: TokenPerformer, native: bool) -> None:
        super().__init__()
        count, dim = performer.w.shape
        self.kqv = WindowsLinear(split, performer.norm1, performer.kqv.weight, performer.kqv.bias, native)
        self.native = native and can_run_performer(dim, count, self.kqv.dtype)
        self.register_buffer("features", performer.w.float())
        self.register_buffer("turned", performer.w.float().t().contiguous())
        fc1, act, fc2, _ = performer.mlp
        self.tail = Tail(performer.proj, performer.norm2, fc1, act, fc2, native)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W)
        kqv = self.kqv(features)  # (B, N, 3 token_dim)
        k, q, v = kqv.chunk(3, dim=-1)
        if self.native:
            mixed = native_performer(kqv, self.turned, EPSILON)  # (B, N, token_dim)
        else:
            mixed = performer_attention(q, k, v, self.features)
        return on_grid(self.tail(mixed, v), self.kqv.grid(features))


class TransformerStage(nn.Module):
    """Windows, exact attention and its MLP: (B, C, H, W) -> (B, token_dim, rows, columns), channels last."""

    def __init__(self, split: SoftSplit, transformer: TokenTransformer, native: bool) -> None:
        super().__init__()
        attn, mlp = transformer.attn, transformer.mlp
        self.qkv = WindowsLinear(split, transformer.norm1, attn.qkv.weight, attn.qkv.bias, native)
        self.native = native and can_attend(attn.qkv.weight.shape[0] // 3, self.qkv.dtype)
        self.scale = attn.scale
        self.tail = Tail(attn.proj, transformer.norm2, mlp.fc1, mlp.act, mlp.fc2, native)

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W)
        qkv = self.qkv(features)  # (B, N, 3 token_dim)
        q, k, v = qkv.chunk(3, dim=-1)
        if self.native:
            mixed = native_attention(qkv, 1, self.scale)  # (B, N, token_dim)
        else:
            mixed = attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), self.scale).squeeze(1)
        return on_grid(self.tail(mixed.contiguous(), v), self.qkv.grid(features))


def on_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) as a map (B, C, *grid), channels last in memory."""
    return tokens.view(tokens.shape[0], *grid, tokens.shape[2]).permute(0, 3, 1, 2)
