"""Tests with other people's libraries, in an environment of their own: `make test-peers`."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import t2t_vit
from t2t_vit import T2TViT

Network = Callable[[str], T2TViT]
# Every kind of tokens, of attention and of block, each in the smallest network that has it.
KINDS = (
    "t2t_vit_quickstart",
    "t2t_vit_7",
    "t2t_vit_t_14",
    "t2t_vit_c_14",
    "t2t_vit_s_6",
    "t2t_vit_14_se",
    "t2t_vit_dense",
    "t2t_vit_16_ghost",
)


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


@pytest.fixture
def network() -> Network:
    """A network of that name for 5 classes and images of 32 x 32 pixels, in eval mode, all of its tensors in use."""

    def build(arch: str) -> T2TViT:
        model = t2t_vit.create_model(arch, num_classes=5, image_size=32, performer_drop=0.0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        return model.eval()

    return build


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, network: Network) -> T2TViT:
    return network(request.param)


@pytest.fixture
def small(network: Network) -> T2TViT:
    return network("t2t_vit_quickstart")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32)
