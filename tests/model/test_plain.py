"""The network is what its modules are: the same numbers with and without gradients, whatever was done to them."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from t2t_vit import create_model
from t2t_vit.model import T2TViT

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def small(arch: str = "t2t_vit_7", drop: float = 0.0) -> T2TViT:
    torch.manual_seed(1)
    model = create_model(arch, image_size=32, num_classes=5, drop=drop).eval()
    model.blocks = model.blocks[:3]
    return model


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class LowRank(nn.Module):
    """An adapter around a layer, as peft puts it in the layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, input: Tensor) -> Tensor:
        return self.base_layer(input) + self.up(self.down(input))


def doubled(linear: nn.Linear) -> Doubled:
    twin = Doubled(linear.in_features, linear.out_features, bias=linear.bias is not None)
    twin.load_state_dict(linear.state_dict())
    return twin


def patched(module: nn.Module) -> None:
    usual = module.forward
    module.forward = lambda *inputs: 3 * usual(*inputs)  # type: ignore[method-assign]


def parametrized(linear: nn.Linear) -> None:
    nn.utils.parametrizations.weight_norm(linear).parametrizations.weight.original0.data.mul_(2)


def set_eps(model: T2TViT) -> None:
    for block in model.blocks:
        block.norm1.eps = 0.5


CHANGES: dict[str, Callable[[T2TViT], object]] = {
    "adapter on qkv": lambda m: setattr(m.blocks[0].attn, "qkv", LowRank(m.blocks[0].attn.qkv)),
    "adapter on kqv": lambda m: setattr(m.tokens_to_token.attention1, "kqv", LowRank(m.tokens_to_token.attention1.kqv)),
    "adapter on project": lambda m: setattr(m.tokens_to_token, "project", LowRank(m.tokens_to_token.project)),
    "subclass of a layer": lambda m: setattr(m.blocks[1].mlp, "fc1", doubled(m.blocks[1].mlp.fc1)),
    "patched attention": lambda m: patched(m.blocks[0].attn),
    "patched norm": lambda m: patched(m.tokens_to_token.attention2.norm1),
    "patched split": lambda m: patched(m.tokens_to_token.split1),
    "hook on a layer": lambda m: m.blocks[0].attn.proj.register_forward_hook(lambda *given: 2 * given[2]),
    "hook on a token norm": lambda m: m.tokens_to_token.attention1.norm1.register_forward_hook(lambda *g: 2 * g[2]),
    "pre-hook on the head": lambda m: m.head.register_forward_pre_hook(lambda _, given: (given[0] + 1,)),
    "ReLU": lambda m: setattr(m.blocks[0].mlp, "act", nn.ReLU()),
    "RMSNorm": lambda m: setattr(m.blocks[0], "norm1", nn.RMSNorm(256)),
    "Tanh in the place of a dropout": lambda m: setattr(m.blocks[0].mlp, "drop1", nn.Tanh()),
    "eps": set_eps,
    "scale": lambda m: setattr(m.blocks[0].attn, "scale", 1.0),
    "weight through .data": lambda m: m.blocks[0].mlp.fc1.weight.data.mul_(2),
    "one number of a bias through .data": lambda m: m.head.bias.data[1:2].fill_(9.0),
    "a norm through .data": lambda m: m.norm.bias.data.fill_(1.0),
    "positions through .data": lambda m: m.pos_embed.data.mul_(3),
    "random features": lambda m: m.tokens_to_token.attention1.w.data.mul_(0.2),
    "spectral norm": lambda m: nn.utils.parametrizations.spectral_norm(m.blocks[0].mlp.fc2).eval(),
    "weight norm": lambda m: parametrized(m.blocks[0].attn.proj),
    "pruned": lambda m: nn.utils.prune.random_unstructured(m.blocks[0].mlp.fc1, "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_or_not(change: str) -> None:
    """The same bits with gradients, without, and in inference mode; and other ones than before the change."""
    model = small()
    with torch.no_grad():
        before = model(IMAGES)
    torch.manual_seed(0)
    CHANGES[change](model)
    with_gradients = model(IMAGES)
    with torch.no_grad():
        without = model(IMAGES)
    with torch.inference_mode():
        inference = model(IMAGES)
    assert with_gradients.requires_grad
    assert torch.equal(with_gradients.detach(), without)
    assert torch.equal(inference, without)
    assert not torch.equal(before, without)


@pytest.mark.parametrize(
    "arch", ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_14_se", "t2t_vit_16_ghost", "t2t_vit_c_14", "t2t_vit_s_6"]
)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, None])
def test_autocast_or_not(arch: str, low: torch.dtype | None) -> None:
    model = small(arch)
    with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
        with_gradients = model(IMAGES)
        with torch.no_grad():
            without = model(IMAGES)
    assert torch.equal(with_gradients.detach(), without)


@torch.no_grad()
def test_monte_carlo_dropout_draws_each_time() -> None:
    model = small(drop=0.5)
    assert torch.equal(model(IMAGES), model(IMAGES))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert not torch.equal(model(IMAGES), model(IMAGES))


@torch.no_grad()
def test_a_global_hook_sees_every_layer() -> None:
    model, seen = small(), []
    with nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        model(IMAGES)
    assert {id(module) for module in seen} >= {
        id(m) for m in model.modules() if isinstance(m, nn.Linear | nn.LayerNorm)
    }


@torch.no_grad()
def test_a_fused_optimizer_moves_what_answers() -> None:
    model = small()
    before = model(IMAGES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        model(IMAGES).sum().backward()
    optimizer.step()
    after = model(IMAGES)
    assert not torch.equal(before, after)
    assert torch.equal(after, copy.deepcopy(model)(IMAGES))


def test_functional_calls_answer_with_the_given_tensors() -> None:
    model = small()
    given = {name: 0.5 * tensor for name, tensor in model.state_dict().items()}
    other = copy.deepcopy(model)
    other.load_state_dict(given)
    with torch.no_grad():
        assert torch.equal(torch.func.functional_call(model, given, (IMAGES,)), other(IMAGES))


# torch's own attention says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
@torch.no_grad()
def test_vmap_over_images() -> None:
    model = small()
    alone = torch.vmap(lambda image: model(image[None])[0])(IMAGES)
    torch.testing.assert_close(alone, model(IMAGES))


def test_torch_fx_gives_the_same_bits() -> None:
    model = small()
    traced = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        assert torch.equal(traced(IMAGES), model(IMAGES))


@torch.no_grad()
def test_a_file_holds_plain_operations() -> None:
    program = torch.export.export(small(), (IMAGES,))
    assert not [node for node in program.graph.nodes if "t2t_vit" in str(node.target)]
