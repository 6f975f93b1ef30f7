"""A row of the table to the blocks of its backbone."""

from torch import nn

from t2t_vit.model.attention import Attention
from t2t_vit.model.block import Block
from t2t_vit.model.dense import DenseBlock, Transition
from t2t_vit.model.ghost import GhostAttention, GhostMlp
from t2t_vit.model.mlp import Mlp
from t2t_vit.model.squeeze_excitation import SEAttention
from t2t_vit.variants import Variant

ATTENTIONS: dict[str, type[Attention]] = {
    "plain": Attention,
    "se": SEAttention,
    "ghost": GhostAttention,
    "dense": Attention,
}
# The dense network's drop path rises by stage, along a line that the authors draw for 12 blocks though it has 19: its
# last block is dropped with 3/11 of the rate that was asked for.
DENSE_RAMP = 12


def build_blocks(variant: Variant, drop: float, drop_path: float, approximate_gelu: bool) -> nn.ModuleList:
    """The blocks in order, the rate of drop path rising linearly from 0 to `drop_path` at the last one."""
    if variant.block == "dense":
        return _dense_blocks(variant, drop, drop_path, approximate_gelu)
    rates = (drop_path * i / max(1, variant.depth - 1) for i in range(variant.depth))
    return nn.ModuleList(Block(variant.dim, *_parts(variant, variant.dim, drop, approximate_gelu), r) for r in rates)


def _dense_blocks(variant: Variant, drop: float, drop_path: float, approximate_gelu: bool) -> nn.ModuleList:
    blocks, dim = nn.ModuleList(), variant.dim
    for stage, layers in enumerate(variant.stages):
        if stage > 0:
            blocks.append(Transition(dim, approximate_gelu))
            dim //= 2
        for _ in range(layers):
            attn, mlp = _parts(variant, dim, drop, approximate_gelu)
            blocks.append(DenseBlock(dim, attn, mlp, drop_path * stage / (DENSE_RAMP - 1), variant.growth))
            dim += variant.growth
    return blocks


def _parts(variant: Variant, dim: int, drop: float, approximate_gelu: bool) -> tuple[nn.Module, nn.Module]:
    attn = ATTENTIONS[variant.block](dim, variant.heads, drop)
    if variant.block == "ghost":
        return attn, GhostMlp(dim, drop, approximate_gelu)
    return attn, Mlp(dim, int(dim * variant.mlp_ratio), drop, approximate_gelu)
