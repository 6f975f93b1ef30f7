import pytest
import torch
from torch import Tensor

from t2t_vit.model import mlp as module
from t2t_vit.model.mlp import Mlp


def held(mlp: Mlp, tokens: Tensor) -> tuple[list[Tensor], int]:
    """Answer and gradients, and how many numbers lie between the forward and the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = mlp(tokens)
    return [out, *torch.autograd.grad(out.square().sum(), [tokens, *mlp.parameters()])], sum(kept.values())


def test_forgotten_activations_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mlp = Mlp(8, 24, 0.0, approximate_gelu=False).train()
    tokens = torch.randn(4, 50, 8, requires_grad=True)
    plain, most = held(mlp, tokens)
    monkeypatch.setattr(module, "forgets_activations", lambda _: True)
    forgetful, least = held(mlp, tokens)
    for one, other in zip(plain, forgetful, strict=True):
        assert torch.equal(one, other)
    assert most - least >= 4 * 50 * 24


def test_what_is_dropped_by_chance_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the passes somebody may draw other numbers, or switch to evaluation."""
    monkeypatch.setattr(module, "forgets_activations", lambda _: True)
    torch.manual_seed(0)
    mlp = Mlp(8, 24, 0.3, approximate_gelu=False).train()
    tokens = torch.randn(4, 50, 8, requires_grad=True)
    torch.manual_seed(1)
    [expected] = torch.autograd.grad(mlp(tokens).square().sum(), tokens)
    torch.manual_seed(1)
    out = mlp(tokens)
    torch.manual_seed(2)
    mlp.eval()
    [found] = torch.autograd.grad(out.square().sum(), tokens)
    assert torch.equal(found, expected)


def test_layers_behind_are_not_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "forgets_activations", lambda _: True)
    mlp = Mlp(8, 24, 0.0, approximate_gelu=False).train()
    ended = []
    mlp.fc2.register_forward_hook(lambda *_: ended.append(1))
    mlp(torch.randn(4, 50, 8, requires_grad=True)).sum().backward()
    assert len(ended) == 1
