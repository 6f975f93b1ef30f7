"""What the network makes of one image: its grids of tokens after each stage, and where its answer looks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.predictor import ImageLike, Prediction
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT, attention_maps


@dataclass(frozen=True)
class Look:
    """One image and what became of it.

    Attributes:
        image: uint8 (C, H, W), as the network sees it.
        stages: feature maps (C, h, w) after the two attentions of the T2T module and after the whole of it.
        rollout: (h, w) on the last grid, the share of the answer that comes from each token; it sums to 1.
        prediction: the answer.
    """

    image: Tensor
    stages: tuple[Tensor, Tensor, Tensor]
    rollout: Tensor
    prediction: Prediction


@torch.inference_mode()
def look(predictor: TorchPredictor, image: ImageLike) -> Look:
    """Run the network once and keep what it made on the way.

    Raises:
        DecodeError: the image cannot be decoded.
        UserError: the network has no attention to follow.
    """
    model = predictor.model
    assert isinstance(model, T2TViT)
    prepared = predictor.prepare(image)  # (C, H, W)
    normalised = predictor.preprocessing.normalize(prepared[None].to(predictor.precision.device))
    with attention_maps(model) as maps, predictor.precision.autocast():
        model(normalised)
        fine, coarse, tokens = model.tokens_to_token.stages(normalised)
    if not maps:
        raise UserError(f"{model.name} has no attention to follow")
    last = tokens.transpose(1, 2).reshape(1, tokens.shape[2], *model.grid)  # (1, dim, h, w)
    shares = rollout(weights[0] for weights in maps.values())  # (N,)
    stages = (fine[0].float().cpu(), coarse[0].float().cpu(), last[0].float().cpu())
    return Look(prepared, stages, shares.view(model.grid).cpu(), predictor.classify([prepared])[0])


def rollout(weights: Iterable[Tensor]) -> Tensor:
    """How much of the class token's last state comes from each other token, (N,), summing to 1.

    The product over the blocks of (I + mean over heads of the attention) / 2, whose first row is read without its
    first entry. Residuals count as looking at oneself.

    Args:
        weights: of each block in order, (heads, 1 + N, 1 + N), each row summing to 1.

    Source: Abnar and Zuidema, arXiv 2005.00928.
    """
    flow: Tensor | None = None
    for block in weights:
        attention = block.float().mean(dim=0)  # (1 + N, 1 + N)
        step = (attention + torch.eye(len(attention), device=attention.device)) / 2
        flow = step if flow is None else step @ flow
    assert flow is not None
    shares = flow[0, 1:]
    return shares / shares.sum()


def as_colours(features: Tensor) -> Tensor:
    """A feature map (C, h, w) as a picture (3, h, w) in 0..1: red, green and blue are its directions of most variance.

    Each is stretched between its 1st and 99th percentile, and turned so that its largest deviation is bright.
    """
    channels, height, width = features.shape
    points = features.flatten(1).T.double()  # (h w, C)
    points = points - points.mean(dim=0)
    count = min(3, channels, len(points))
    _, _, directions = torch.linalg.svd(points, full_matrices=False)
    parts = points @ directions[:count].T  # (h w, count)
    parts = parts * parts.gather(0, parts.abs().argmax(dim=0, keepdim=True)).sign()
    low, high = (parts.quantile(q, dim=0) for q in (0.01, 0.99))
    stretched = ((parts - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)  # (h w, count)
    if count < 3:
        stretched = stretched[:, :1].expand(-1, 3)
    return stretched.T.reshape(3, height, width).float()
