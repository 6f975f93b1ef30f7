"""The network in the form that graphs are made of: the same numbers by fewer and plainer operators."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2t_vit.export.job import ExportJob
from t2t_vit.inference.exported import Metadata
from t2t_vit.model import T2TViT
from t2t_vit.model.inputs import grid_of, stretched_table
from t2t_vit.model.tokens_to_token import TokenPerformer, TokensToToken, TokenTransformer
from t2t_vit.ops.soft_split import slices_order, soft_split_by_slices
from t2t_vit.variants import SoftSplit


def graph_form(job: ExportJob, *, by_slices: bool = True, centred_norms: bool = False) -> nn.Module:
    """A module of the file's own input and output, in the file's precision except for int8, which starts from float32.

    Args:
        job: its model is copied where it has to change.
        by_slices: make soft splits of slices, where unfolding would become gathers. Weights of the tokens-to-token
            module are then in another order, and have other names.
        centred_norms: write LayerNorm out, for runtimes whose own takes the variance as a difference of two means.
    """
    model: nn.Module = copy.deepcopy(job.model)
    assert isinstance(model, T2TViT)
    if by_slices and isinstance(model.tokens_to_token, TokensToToken):
        model.set_submodule("tokens_to_token", SlicedTokens(model.tokens_to_token))
    if centred_norms:
        norms = [(name, norm) for name, norm in model.named_modules() if isinstance(norm, nn.LayerNorm)]
        for name, norm in norms:
            model.set_submodule(name, CentredNorm(norm))
    if job.metadata.dynamic_size:
        model = AnySize(model)
    if job.metadata.precision == "fp16":
        model = model.half()
    return FileInterface(model, job.metadata).eval()


class FileInterface(nn.Module):
    """From the file's input, pixels or normalised images, to float32 logits, whatever is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, metadata: Metadata) -> None:
        super().__init__()
        self.model = model
        self.half_inside = metadata.precision == "fp16"
        self.normalises = metadata.normalised_inside
        if self.normalises:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(metadata.preprocessing, name), dtype=torch.float64)
                self.register_buffer(name, values.mul(255.0).float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        if self.normalises:
            images = (images.float() - self.mean) / self.std
        if self.half_inside:
            return self.model(images.half()).float()
        return self.model(images)  # (B, num_classes)


class SlicedTokens(nn.Module):
    """The Tokens-to-Token module with channels last, windows of slices, and its end, a window times a matrix, as the
    convolution that it is. Shapes below are of a 224-pixel image."""

    def __init__(self, tokens: TokensToToken) -> None:
        super().__init__()
        self.splits = (tokens.split0.split, tokens.split1.split, tokens.split2.split)
        self.first = reordered(tokens.attention1, self.splits[0])
        self.second = reordered(tokens.attention2, self.splits[1])
        weight, kernel = tokens.project.weight, self.splits[2].kernel
        self.end_weight = nn.Parameter(weight.detach().view(len(weight), -1, kernel, kernel))  # (dim, 64, 3, 3)
        self.end_bias = nn.Parameter(tokens.project.bias.detach())

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 224, 224)
        features = self._stage(self.first, images.permute(0, 2, 3, 1), self.splits[0])  # (B, 56, 56, 64)
        features = self._stage(self.second, features, self.splits[1])  # (B, 28, 28, 64)
        end = self.splits[2]
        planes = features.permute(0, 3, 1, 2)  # (B, 64, 28, 28)
        tokens = F.conv2d(planes, self.end_weight, self.end_bias, stride=end.stride, padding=end.padding)
        return tokens.flatten(2).transpose(1, 2)  # (B, 196, dim)

    def _stage(self, attention: nn.Module, features: Tensor, split: SoftSplit) -> Tensor:
        windows = soft_split_by_slices(features, split.kernel, split.stride, split.padding)  # (B, rows, columns, C k k)
        tokens: Tensor = attention(windows.flatten(1, 2))  # (B, N, token_dim)
        return tokens.reshape(tokens.shape[0], windows.shape[1], windows.shape[2], -1)


def reordered(attention: nn.Module, split: SoftSplit) -> nn.Module:
    """A copy of the attention whose weights take the channels of its tokens in the order that slices give."""
    attention = copy.deepcopy(attention)
    assert isinstance(attention, TokenPerformer | TokenTransformer)
    order = slices_order(attention.norm1.weight.numel() // split.kernel**2, split.kernel)
    widened = attention.kqv if isinstance(attention, TokenPerformer) else attention.attn.qkv
    with torch.no_grad():
        for weight in (attention.norm1.weight, attention.norm1.bias, widened.weight):
            weight.copy_(weight[..., order])
    return attention


class CentredNorm(nn.Module):
    """LayerNorm that centres before it squares: of a flat window, mean(x^2) - mean(x)^2 has no digit left."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        centred = tokens - tokens.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)  # (B, N, 1)
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


class AnySize(nn.Module):
    """The network for images of any size: its position table is stretched inside the graph."""

    def __init__(self, model: T2TViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        grid = grid_of(images, self.model.variant.splits)
        positions = stretched_table(self.model.pos_embed, self.model.grid, grid)  # (1, 1 + N, dim)
        tokens = self.model.encode(self.model.tokens_to_token(images), positions)  # (B, 1 + N, num_features)
        return self.model.forward_head(tokens)  # (B, num_classes)
