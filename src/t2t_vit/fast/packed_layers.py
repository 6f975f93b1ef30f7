"""Layers for inference on a CPU, made of the network's own: weights laid out once, GELU and residual in the product."""

import torch
from torch import Tensor, nn

from t2t_vit.fast.native import (
    SIDE,
    NativeLayer,
    PartedLayer,
    can_attend,
    can_multiply_float32,
    can_run_tail,
    native_attention,
    native_linear,
    native_mix,
    native_tail,
)
from t2t_vit.fast.packed_linear import Activation, maker, pack_weight, packed_linear, packed_linear_add
from t2t_vit.model.backbone import Attention, Block, Mlp

ROWS = 8 * 197  # what the layout of the weights is chosen for; it is right for any other number, too


class PackedLinear(nn.Module):
    """A linear layer with its weight packed, for the compiled kernels or for oneDNN, and an activation behind it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, native: bool, activation: Activation = "none") -> None:
        super().__init__()
        self.activation: Activation = activation
        self.layer = PartedLayer.of(weight, bias) if native and can_multiply_float32(weight) else None
        if self.layer is None:
            self.weight = pack_weight(weight.detach(), ROWS)
            self.bias = None if bias is None else bias.detach()

    @property
    def maker(self) -> str:
        """Whose product it is."""
        return "native" if self.layer is not None else maker(self.weight)

    @classmethod
    def of(cls, linear: nn.Linear, native: bool, activation: Activation = "none") -> "PackedLinear":
        """The same layer."""
        return cls(linear.weight, linear.bias, native, activation)

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in)
        if self.layer is not None:
            return native_linear(inputs, self.layer, self.activation)  # (..., out)
        return packed_linear(inputs, self.weight, self.bias, self.activation)

    def add(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """The layer's answer on top of `residual` (..., out)."""
        if self.layer is not None:
            return native_linear(inputs, self.layer, residual=residual)
        return packed_linear_add(inputs, self.weight, self.bias, residual)


class Tail(nn.Module):
    """What is behind an attention: tokens = residual + proj(mixed), then tokens + fc2(gelu(fc1(norm(tokens))))."""

    def __init__(
        self, proj: nn.Linear, norm: nn.LayerNorm, fc1: nn.Linear, act: nn.GELU, fc2: nn.Linear, native: bool
    ) -> None:
        super().__init__()
        self.norm = norm
        self.activation: Activation = "gelu_tanh" if act.approximate == "tanh" else "gelu"
        self.native = native and can_run_tail(proj.weight, fc1.weight, fc2.weight)
        if self.native:
            proj_, fc1_, fc2_ = (NativeLayer.of(layer.weight, layer.bias) for layer in (proj, fc1, fc2))
            self.layers = proj_, fc1_, fc2_
        else:
            self.proj, self.fc2 = PackedLinear.of(proj, native), PackedLinear.of(fc2, native)
            self.fc1 = PackedLinear.of(fc1, native, self.activation)

    def forward(self, mixed: Tensor, residual: Tensor) -> Tensor:  # (B, N, dim) both
        if self.native:
            return native_tail(mixed, residual, self.norm, self.layers, self.activation)
        tokens = self.proj.add(mixed, residual.contiguous())
        return self.fc2.add(self.fc1(self.norm(tokens)), tokens)


class PackedBlock(nn.Module):
    """A plain block: x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, block: Block, attn: Attention, mlp: Mlp, native: bool) -> None:
        super().__init__()
        self.norm1, self.attn = block.norm1, attn
        # By the weights, since a layer whose weight was cut may still say otherwise.
        width, dim = attn.qkv.weight.shape[0] // 3, attn.qkv.weight.shape[1]
        self.native = native and can_attend(width // attn.heads, attn.qkv.weight.dtype)
        of_one_width = self.native and width == dim and dim % SIDE == 0  # not where heads were taken out
        self.layer = NativeLayer.of(attn.qkv.weight, attn.qkv.bias) if of_one_width else None
        self.tail = Tail(attn.proj, block.norm2, mlp.fc1, mlp.act, mlp.fc2, native)
        self.attn.qkv = PackedLinear.of(attn.qkv, native)  # type: ignore[assignment]

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        return self.tail(self._mix(tokens), tokens)

    def _mix(self, tokens: Tensor) -> Tensor:
        if self.layer is not None and len(tokens) % torch.get_num_threads() == 0:  # each thread has as many images
            return native_mix(tokens, self.norm1, self.layer, self.attn.heads, self.attn.scale)
        tokens = self.norm1(tokens)
        if self.native:
            return native_attention(self.attn.qkv(tokens), self.attn.heads, self.attn.scale)
        return self.attn.mix(tokens)


def swap(module: nn.Module, native: bool) -> None:
    """Put packed layers in place of what they know; everything else stays."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear.of(child, native))
        elif type(child) is Block and type(child.attn) is Attention and type(child.mlp) is Mlp:
            setattr(module, name, PackedBlock(child, child.attn, child.mlp, native))
        else:
            swap(child, native)


def widened(weight: Tensor, length: int) -> Tensor:
    """(out, in) with zeros behind: (out, length)."""
    return torch.nn.functional.pad(weight, (0, length - weight.shape[1]))
