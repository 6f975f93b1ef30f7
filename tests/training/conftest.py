import pytest
import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """A 3-class network with the kinds of tensors that need care: 1-d, a class token, frozen and running buffers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 12))
        self.hidden = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(16, 3)
        self.register_buffer("pos_embed", torch.full((1, 12), 0.5))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def no_weight_decay(self) -> set[str]:
        return {"cls_token"}

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        tokens = images.flatten(1) + self.cls_token[0] + self.pos_embed
        return self.head(self.drop(self.norm(torch.tanh(self.hidden(tokens)))))


class ToyLoader:
    """Batches that are a function of (epoch, index); target = which third of the features is largest."""

    def __init__(self, batches: int = 8, batch_size: int = 6) -> None:
        self.batches, self.batch_size = batches, batch_size

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start: int = 0):
        for index in range(start, self.batches):
            generator = torch.Generator().manual_seed(1000 * epoch + index)
            images = torch.randn(self.batch_size, 3, 2, 2, generator=generator)
            yield images, images.mean((2, 3)).argmax(1)


@pytest.fixture
def make_model():
    def make(dropout: float = 0.0, seed: int = 0) -> Toy:
        torch.manual_seed(seed)
        return Toy(dropout)

    return make


@pytest.fixture
def make_loader():
    return ToyLoader
