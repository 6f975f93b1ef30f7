"""What is dropped as a function of seeds: the same in every split, at each place its own, and as much as asked."""

import copy

import pytest
import torch
from torch import Tensor, nn

from t2t_vit import create_model
from t2t_vit.model.drop import DropBlock, Dropout, DropPath, share_seeds
from t2t_vit.model.t2t_vit import T2TViT


class Dropping(nn.Module):
    def __init__(self, rate: float = 0.25) -> None:
        super().__init__()
        self.first, self.second, self.path = Dropout(rate), Dropout(rate), DropPath(rate)
        self.sample_seeds = share_seeds(self)

    def forward(self, numbers: Tensor) -> Tensor:  # (B, N)
        return torch.cat([self.first(numbers), self.path(self.second(numbers))], dim=1)  # (B, 2 N)


def make_network(rate: float = 0.1) -> T2TViT:
    torch.manual_seed(0)
    options = dict.fromkeys(("drop", "drop_path", "drop_block", "performer_drop"), rate)
    return create_model("t2t_vit_quickstart", num_classes=5, in_chans=1, image_size=(28, 28), **options).train()


@pytest.mark.parametrize("module", [Dropout(0.3), DropPath(0.3), DropBlock(0.3, 1)])
@pytest.mark.parametrize("seeded", [True, False])
def test_the_share_and_the_mean_are_right(module: nn.Module, seeded: bool) -> None:
    seeds = share_seeds(module)
    module.train()
    torch.manual_seed(0)
    seeds.set(torch.arange(2000) if seeded else None)
    out = module(torch.ones(2000, 2, 8, 8))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    assert torch.equal(module.eval()(out), out)


def test_places_and_samples_are_unrelated() -> None:
    network = Dropping(0.5)
    network.sample_seeds.set(torch.arange(6))
    ones = torch.ones(6, 768)
    rows = torch.cat([network.first(ones), network.second(ones)])  # 12 masks
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.15
    paths = DropPath(0.5)
    share_seeds(paths).set(torch.arange(4000))
    kept = paths(torch.ones(4000, 1))[:, 0] > 0
    assert (kept[1:] == kept[:-1]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_left_alone_it_draws_from_torchs_generator() -> None:
    module = Dropout(0.4)
    assert isinstance(module, nn.Dropout)
    images = torch.ones(7, 30_001, requires_grad=True)
    torch.manual_seed(1)
    ours = module(images)
    torch.manual_seed(1)
    assert torch.equal(module(images), ours)
    assert not torch.equal(module(images), ours)
    assert ours.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (ours == 0).float().mean().item() == pytest.approx(0.4, abs=0.005)
    # Four numbers share a word: none of the four places is dropped more often, and neighbours do not agree.
    dropped = (ours == 0)[:, :30_000].view(7, -1, 4).float()
    assert (dropped.mean(dim=(0, 1)) - 0.4).abs().max() < 0.01
    assert torch.corrcoef(dropped.flatten(0, 1).t()).fill_diagonal_(0).abs().max() < 0.02
    ours.sum().backward()
    assert torch.equal(images.grad, ours.detach())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_split_of_a_batch_drops_the_same(checkpointing: bool) -> None:
    network, images = make_network(), torch.randn(6, 1, 28, 28)
    network.set_grad_checkpointing(checkpointing)

    def run(seeds: Tensor, rows: slice) -> tuple[Tensor, list[Tensor]]:
        network.zero_grad()
        network.sample_seeds.set(seeds[rows])
        logits = network(images[rows])
        logits.square().sum().backward()
        return logits.detach(), [weight.grad.clone() for weight in network.parameters()]

    seeds = torch.arange(100, 106)
    logits, gradients = run(seeds, slice(None))
    parts = [run(seeds, rows) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), logits, atol=1e-5, rtol=1e-5)
    for whole, *pieces in zip(gradients, *(grads for _, grads in parts), strict=True):
        torch.testing.assert_close(sum(pieces), whole, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(run(seeds + 1, slice(None))[0], logits, atol=1e-3)


def test_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        network = make_network()
        network.set_grad_checkpointing(checkpointing)
        network.sample_seeds.set(torch.arange(2))
        network(torch.ones(2, 1, 28, 28)).sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_seeds_leave_no_trace_in_weights_evaluation_and_copies() -> None:
    network, plain = make_network(), make_network(0.0)
    assert network.state_dict().keys() == plain.state_dict().keys()
    network.sample_seeds.set(torch.arange(2))
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(network.eval()(images), plain.eval()(images))
    other = copy.deepcopy(network.train())
    other.sample_seeds.set(torch.arange(2) + 9)
    assert not torch.equal(network(images), other(images))
    assert torch.equal(network.sample_seeds.keys, make_and_tell(network))


def make_and_tell(network: T2TViT) -> Tensor:
    network.sample_seeds.set(torch.arange(2))
    assert network.sample_seeds.keys is not None
    return network.sample_seeds.keys


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.thorough)])
def test_compiled_it_is_one_graph_without_recompiling(backend: str) -> None:
    network = Dropping()
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    numbers = torch.randn(3, 70)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for start in (0, 10, 2**60):
            network.sample_seeds.set(torch.arange(3) + start)
            torch.testing.assert_close(compiled(numbers), network(numbers))


def test_a_rate_of_one_leaves_nothing() -> None:
    numbers = torch.randn(2, 3, 4, requires_grad=True)
    assert not DropPath(1.0).train()(numbers).any()
    dropped = Dropout(1.0).train()(numbers)
    dropped.sum().backward()
    assert not dropped.any()
    assert not numbers.grad.any()
