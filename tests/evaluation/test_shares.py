"""1,003 images, counted by one, two and three processes in batches of 7 and 64: always the same counts."""

import pytest
import torch
from torch import Tensor, nn

from t2t_vit.data.datasets import open_images
from t2t_vit.data.images import ImageSet
from t2t_vit.data.loader import EvalLoader
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.evaluation.metrics import Metrics, evaluate


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return open_images("val", dataset="FashionMNIST", data_url="", in_chans=1, num_samples=1003, seed=0)


def counted(images: ImageSet, world: int, batch_size: int) -> Metrics:
    """What the processes find together; their sums meet here as in an all-reduce."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    preprocessing = Preprocessing((28, 28), mean=(0.5,), std=(0.5,), in_chans=1)
    shares: list[Tensor] = []

    def meet(sums: Tensor) -> Tensor:
        shares.append(sums)
        return torch.stack(shares).sum(0)

    found = []
    for rank in range(world):
        loader = EvalLoader(images, preprocessing, batch_size=batch_size, rank=rank, world=world)
        found.append(evaluate(model, loader, reduce=meet, classes=10))
    assert len(shares) == world
    return found[-1]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_every_split_counts_the_same(images: ImageSet, world: int, batch_size: int) -> None:
    whole, split = counted(images, 1, 1003), counted(images, world, batch_size)
    assert split.count == 1003
    assert (split.top1, split.top5) == (whole.top1, whole.top5)
    assert (split.class_top1, split.class_count) == (whole.class_top1, whole.class_count)
    assert (split.balanced_accuracy, split.macro_f1) == (whole.balanced_accuracy, whole.macro_f1)
    assert split.loss == pytest.approx(whole.loss, rel=1e-7)
