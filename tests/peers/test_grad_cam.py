"""Grad-CAM of pytorch-grad-cam on the last block's norm, and without gradients the same logits."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam import EigenCAM, GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from t2t_vit import T2TViT, create_model
from t2t_vit.variants import VARIANTS


def as_maps(tokens: Tensor) -> Tensor:
    """(B, 1 + N, C) -> (B, C, 2, 4)."""
    return tokens[:, 1:].mT.unflatten(2, (2, 4))


@pytest.fixture(params=["t2t_vit_quickstart", "t2t_vit_t_14", "t2t_vit_c_14", "t2t_vit_s_6", "t2t_vit_16_ghost"])
def network(request: pytest.FixtureRequest) -> T2TViT:
    """A network whose last grid has 2 x 4 tokens, in front of a head on their mean."""
    stride = VARIANTS[request.param].strides[-1]
    size = (2 * stride, 4 * stride)
    return create_model(request.param, num_classes=5, image_size=size, global_pool="avg").eval()


@pytest.mark.parametrize("method", [GradCAM, HiResCAM])
def test_maps_follow_the_class(network: T2TViT, method: type[GradCAM]) -> None:
    images = torch.randn(2, 3, *network.image_size)
    maps = []
    for label in (0, 3):
        with method(model=network, target_layers=[network.blocks[-1].norm1], reshape_transform=as_maps) as cam:
            found = cam(input_tensor=images, targets=[ClassifierOutputTarget(label)] * 2)
        assert found.shape == (2, *network.image_size)
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
        maps.append(found)
    assert maps[0].std() > 0.05
    assert np.abs(maps[0] - maps[1]).max() > 0.05
    assert not any(module._forward_hooks for module in network.modules())


def test_the_map_is_the_formula(network: T2TViT) -> None:
    """sum over channels of (mean gradient) * activation, cut at 0, between 0 and 1."""
    images = torch.randn(1, 3, *network.image_size)
    seen: list[Tensor] = []
    handle = network.blocks[-1].norm1.register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    logits = network(images)
    handle.remove()
    [gradient] = torch.autograd.grad(logits[0, 3], seen[0])
    weights = as_maps(gradient).mean(dim=(2, 3), keepdim=True)
    expected = (weights * as_maps(seen[0])).sum(dim=1).relu()[0]
    expected = (expected - expected.min()) / (expected - expected.min()).max().clamp(min=1e-7)
    with GradCAM(model=network, target_layers=[network.blocks[-1].norm1], reshape_transform=as_maps) as cam:
        [found] = cam(input_tensor=images, targets=[ClassifierOutputTarget(3)])
    rows, columns = (side // count for side, count in zip(network.image_size, (2, 4), strict=True))
    centres = torch.from_numpy(found)[rows // 2 :: rows, columns // 2 :: columns]
    assert centres.shape == expected.shape
    assert centres.argmax() == expected.argmax()


def test_a_method_without_gradients(network: T2TViT) -> None:
    images = torch.randn(1, 3, *network.image_size)
    with (
        torch.no_grad(),
        EigenCAM(model=network, target_layers=[network.blocks[-1].norm1], reshape_transform=as_maps) as cam,
    ):
        found = cam(input_tensor=images, targets=[ClassifierOutputTarget(0)])
        torch.testing.assert_close(cam.outputs, network(images))
    assert found.shape == (1, *network.image_size) and found.std() > 0.05
