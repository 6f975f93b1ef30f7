"""The layers that `fuse` puts in place of the network's own: the same weights, children and names, other kernels.

Each is a subclass that differs in how it computes, so `fuse` and `unfuse` only set a module's class.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2t_vit.fast.untouched import Kinds, replaced_method, why_touched
from t2t_vit.model.backbone import Mlp
from t2t_vit.model.tokens_to_token import (
    NarrowingAttention,
    SoftSplitLayer,
    Stages,
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
    restructure,
)
from t2t_vit.ops.split_norm_linear import fused_split_norm_linear, product_dtype


class FusedTokensToToken(TokensToToken):
    """`TokensToToken` whose windows never lie in memory, and whose performers read the tokens twice.

    Of its modules the soft splits, the attentions, their `norm1` and their linear layer to keys, queries and values are
    read, not called; if one of them was changed since, the forward pass is refused.
    """

    def stages(self, images: Tensor) -> Stages:
        """The maps after the first and the second attention, and the tokens."""
        tokens = self._attend(self.split0, self.attention1, images)  # (B, 3136, 64)
        fine = self.drop_block1(restructure(tokens, self.split0.grid(images)))  # (B, 64, 56, 56)
        tokens = self._attend(self.split1, self.attention2, fine)  # (B, 784, 64)
        coarse = self.drop_block2(restructure(tokens, self.split1.grid(fine)))  # (B, 64, 28, 28)
        return fine, coarse, self.project(self.split2(coarse))  # (B, 196, dim)

    def _attend(
        self, split: SoftSplitLayer, attention: TokenPerformer | TokenTransformer, features: Tensor
    ) -> Tensor:  # (B, C, H, W)
        linear = attention.kqv if isinstance(attention, TokenPerformer) else attention.attn.qkv
        self._refuse_changes(split, attention, linear)
        if features.dtype is torch.float64:
            raise RuntimeError("a fused network does not compute in float64; call unfuse first")
        norm, window = attention.norm1, split.split
        packed = fused_split_norm_linear(
            features,
            norm.weight,
            norm.bias,
            linear.weight,
            linear.bias,
            [window.kernel, window.stride, window.padding],
            norm.eps,
            product_dtype(features),
        )[0]  # (B, N, 3 token_dim)
        if isinstance(attention, TokenTransformer):
            return attention.finish(attention.attn.mix(packed))  # (B, N, token_dim)
        from t2t_vit.ops.performer_triton import performer_triton  # Triton is not installed everywhere

        k, q, v = packed.chunk(3, dim=-1)  # (B, N, token_dim) each
        return attention.finish(performer_triton(q, k, v, attention.w)[0], v)  # (B, N, token_dim)

    def _refuse_changes(
        self, split: nn.Module, attention: TokenPerformer | TokenTransformer, linear: nn.Module
    ) -> None:
        read: list[tuple[nn.Module, Kinds]] = [
            (split, (SoftSplitLayer,)),
            (attention, (TokenPerformer, TokenTransformer)),
            (attention.norm1, (nn.LayerNorm,)),
            (linear, (nn.Linear,)),
        ]
        if isinstance(attention, TokenTransformer):
            read.append((attention.attn, (NarrowingAttention,)))
        reasons = [(module, why_touched(module, kinds)) for module, kinds in read]
        if isinstance(attention, TokenPerformer) and attention.w.requires_grad:
            reasons.append((attention, "has a w that requires a gradient"))
        for kind in (TokensToToken, Mlp):
            if (replaced := replaced_method(kind)) is not None:
                reasons.append((self, f"computes in the place of a {kind.__name__}, whose {replaced} was replaced"))
        for module, reason in reasons:
            if reason is not None:
                name = next(f".{name}" if name else "" for name, found in self.named_modules() if found is module)
                raise RuntimeError(f"after the network was fused, tokens_to_token{name} {reason}; call unfuse first")


class RecomputingMlp(Mlp):
    """`Mlp` that keeps what stands before its GELU and computes the GELU again for the gradient.

    On a GPU memory is dearer: what lies between the two layers is a sixth of what a training step keeps.
    """

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        hidden = self.fc1(tokens)  # (B, N, hidden)
        if not hidden.requires_grad or (self.drop1.training and self.drop1.p):  # what was drawn cannot be drawn again
            return self.drop2(self._shrink(hidden))
        return self.drop2(checkpoint(self._shrink, hidden, use_reentrant=False, preserve_rng_state=False))

    def _shrink(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.drop1(self.act(hidden)))
