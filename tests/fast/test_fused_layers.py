import torch
from torch import Tensor

from t2t_vit.fast.fused_layers import RecomputingMlp
from t2t_vit.model.backbone import Mlp


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


def test_forgotten_activations_change_nothing_but_memory() -> None:
    torch.manual_seed(0)
    mlp = RecomputingMlp(8, 24, 0.0, approximate_gelu=False).train()
    tokens = torch.randn(4, 50, 8, requires_grad=True)
    forgetful, least = held(mlp, tokens)
    mlp.__class__ = Mlp
    plain, most = held(mlp, tokens)
    for one, other in zip(plain, forgetful, strict=True):
        assert torch.equal(one, other)
    assert most - least >= 4 * 50 * 24


def test_what_is_dropped_by_chance_is_kept() -> None:
    """Between the passes somebody may draw other numbers, or switch to evaluation."""
    torch.manual_seed(0)
    mlp = RecomputingMlp(8, 24, 0.3, approximate_gelu=False).train()
    tokens = torch.randn(4, 50, 8, requires_grad=True)
    torch.manual_seed(1)
    [expected] = torch.autograd.grad(mlp(tokens).square().sum(), tokens)
    torch.manual_seed(1)
    out = mlp(tokens)
    torch.manual_seed(2)
    mlp.eval()
    [found] = torch.autograd.grad(out.square().sum(), tokens)
    assert torch.equal(found, expected)


def test_layers_behind_are_not_computed_twice() -> None:
    mlp = RecomputingMlp(8, 24, 0.0, approximate_gelu=False).train()
    ended = []
    mlp.fc2.register_forward_hook(lambda *_: ended.append(1))
    mlp(torch.randn(4, 50, 8, requires_grad=True)).sum().backward()
    assert len(ended) == 1
