"""What the network makes of one image: its grids of tokens after each stage, and where its answer looks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.inference.image_like import ImageLike
from t2t_vit.inference.item import Prediction
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT, attention_maps
from t2t_vit.model.head import GlobalPool, pool
from t2t_vit.model.intermediates import check_request
from t2t_vit.model.tokens_to_token import restructure


@dataclass(frozen=True)
class Look:
    """One image and what became of it.

    Attributes:
        image: uint8 (C, H, W), as the network sees it.
        stages: feature maps (C, h, w) after the first two stages of the T2T module and after the whole of it.
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
        UserError: the network has no attention to draw.
    """
    model = predictor.network
    assert isinstance(model, T2TViT)
    prepared = predictor.prepare(image)  # (C, H, W)
    normalised = predictor.preprocessing.normalize(prepared[None].to(predictor.precision.device))
    check_request(model, (), norm=False, output_fmt="NCHW")
    with attention_maps(model) as maps, predictor.precision.autocast():
        model(normalised)
        fine, coarse, tokens = model.tokens_to_token.stages(normalised)
    if not maps:
        raise UserError(f"{model.name} has no attention to draw")
    last = restructure(tokens, model.grid)  # (1, dim, h, w)
    shares = rollout((weights[0] for weights in maps.values()), model.global_pool)  # (N,)
    stages = (fine[0].float().cpu(), coarse[0].float().cpu(), last[0].float().cpu())
    return Look(prepared, stages, shares.view(model.grid).cpu(), predictor.classify([prepared])[0])


def rollout(weights: Iterable[Tensor], global_pool: GlobalPool = "token") -> Tensor:
    """How much of what the head sees comes from each token but the class token, (N,), summing to 1.

    The product over the blocks of (I + mean over heads of the attention) / 2, without its first column; of it the
    first row, or the mean of the others where the head sees the mean of their tokens ("avg"). Residuals count as
    looking at oneself.

    Args:
        weights: of each block in order, (heads, 1 + N, 1 + N), each row summing to 1.
        global_pool: what the head sees, as in `T2TViT`.

    Raises:
        UserError: the head sees all tokens.

    Source: Abnar and Zuidema, arXiv 2005.00928.
    """
    flow: Tensor | None = None
    for block in weights:
        attention = block.float().mean(dim=0)  # (1 + N, 1 + N)
        step = (attention + torch.eye(len(attention), device=attention.device)) / 2
        flow = step if flow is None else step @ flow
    assert flow is not None
    shares = pool(flow[None, :, 1:], global_pool)[0]  # (N,)
    if shares.ndim != 1:
        raise UserError("the head sees all tokens separately: there is no single answer to draw")
    return shares / shares.sum()


def as_colours(features: Tensor) -> Tensor:
    """A feature map (C, h, w) as an image (3, h, w) in 0..1: red, green and blue are its directions of most variance.

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
