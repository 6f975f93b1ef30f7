"""Whatever is not exactly ours is refused by `pack` and by `fuse`, by the module's name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from threading import Lock
from types import ModuleType

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from t2t_vit import FeaturesOnly, UserError, create_model, fuse, pack, unfuse
from t2t_vit.model import T2TViT, backbone
from t2t_vit.model.backbone import Attention, Mlp
from t2t_vit.model.drop import Dropout


def small(arch: str = "t2t_vit_7") -> T2TViT:
    torch.manual_seed(1)
    model = create_model(arch, image_size=32, num_classes=5, drop=0.1).eval()
    model.blocks = model.blocks[:2].eval()
    return model


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OtherAttention(Attention):
    pass


class OtherNetwork(T2TViT):
    pass


def as_other(model: nn.Module) -> nn.Module:
    model.__class__ = OtherNetwork
    return model


class Marked(nn.Parameter):
    pass


class Swapped(Tensor):
    pass


def put(path: str, module: nn.Module) -> Callable[[T2TViT], object]:
    return lambda model: model.set_submodule(path, module.eval())


def hook(path: str) -> Callable[[T2TViT], object]:
    return lambda model: model.get_submodule(path).register_forward_hook(lambda *_: None)


def patch(path: str, name: str) -> Callable[[T2TViT], object]:
    return lambda model: setattr(model.get_submodule(path), name, lambda *_: None)


# What was done, and what of the refusal has to be read: the module's name and the reason.
CHANGES: dict[str, tuple[Callable[[T2TViT], object], str]] = {
    "subclassed layer": (put("blocks.1.mlp.fc1", Doubled(256, 512)), "blocks.1.mlp.fc1 is a Doubled, not a Linear"),
    "subclassed attention": (put("blocks.0.attn", OtherAttention(256, 4, 0.0)), "blocks.0.attn is a OtherAttention"),
    "adapter": (put("blocks.0.attn.qkv", nn.Sequential(nn.Linear(256, 768))), "blocks.0.attn.qkv is a Sequential"),
    "adapter on kqv": (put("tokens_to_token.attention1.kqv", Doubled(147, 192)), "attention1.kqv is a Doubled"),
    "ReLU": (put("blocks.0.mlp.act", nn.ReLU()), "blocks.0.mlp.act is a ReLU, not a GELU"),
    "RMSNorm": (put("blocks.0.norm1", nn.RMSNorm(256)), "blocks.0.norm1 is a RMSNorm"),
    "torch's dropout": (
        put("blocks.0.attn.proj_drop", nn.Dropout(0.1)),
        "proj_drop is a torch.nn.modules.dropout.Dropout, not a Dropout",
    ),
    "module for a dropout": (put("pos_drop", nn.Tanh()), "pos_drop is a Tanh"),
    "module for a drop path": (put("blocks.1.drop_path2", nn.Identity()), "blocks.1.drop_path2 is a Identity"),
    "another norm": (put("norm", nn.Sequential(nn.LayerNorm(256))), "norm is a Sequential"),
    "another head": (put("head", nn.Sequential(nn.Linear(256, 5))), "head is a Sequential"),
    "another block": (put("blocks.1", nn.Linear(256, 256)), "blocks.1 is a Linear"),
    "no token module": (put("tokens_to_token", nn.Identity()), "tokens_to_token is a Identity"),
    "longer MLP": (
        lambda m: m.tokens_to_token.attention1.mlp.append(nn.ReLU().eval()),
        "attention1 has a module mlp.4 that does not belong to it",
    ),
    "extra module": (lambda m: m.add_module("extra", nn.ReLU()), "the model has a module extra that does not belong"),
    "lost module": (lambda m: delattr(m.blocks[0].mlp, "act"), "blocks.0.mlp has lost its module act"),
    "none for a module": (
        lambda m: setattr(m.blocks[0], "drop_path1", None),
        "blocks.0 has lost its module drop_path1",
    ),
    "hook": (hook("blocks.0.mlp.fc1"), "blocks.0.mlp.fc1 has a hook"),
    "hook on the whole": (hook(""), "the model has a hook"),
    "hook on a list": (hook("blocks"), "blocks has a hook"),
    "pre-hook": (lambda m: m.norm.register_forward_pre_hook(lambda *_: None), "norm has a hook"),
    "backward hook": (lambda m: m.head.register_full_backward_hook(lambda *_: None), "head has a hook"),
    "patched forward": (patch("blocks.0.attn", "forward"), "blocks.0.attn has its own forward"),
    "patched method": (patch("blocks.0.attn", "mix"), "blocks.0.attn has its own mix"),
    "patched network": (patch("", "forward_features"), "the model has its own forward_features"),
    "patched stages": (patch("tokens_to_token", "stages"), "tokens_to_token has its own stages"),
    "spectral norm": (
        lambda m: nn.utils.parametrizations.spectral_norm(m.blocks[0].mlp.fc2).eval(),
        "blocks.0.mlp.fc2 is a ParametrizedLinear",
    ),
    "pruned": (
        lambda m: nn.utils.prune.random_unstructured(m.blocks[0].mlp.fc1, "weight", 0.5),
        "blocks.0.mlp.fc1 has a hook",
    ),
    "tensor subclass": (
        lambda m: setattr(m.head, "weight", Marked(m.head.weight.detach())),
        "head has a Marked as weight, not a plain tensor",
    ),
    "buffer of a subclass": (
        lambda m: setattr(m, "pos_embed", m.pos_embed.as_subclass(Swapped)),
        "the model has a Swapped as pos_embed",
    ),
    "extra parameter": (
        lambda m: m.blocks[0].norm1.register_parameter("extra", nn.Parameter(torch.ones(1))),
        "blocks.0.norm1 has a tensor extra that does not belong to it",
    ),
    "extra buffer": (lambda m: m.head.register_buffer("scale", torch.ones(1)), "head has a tensor scale"),
    "norm without a bias": (put("norm", nn.LayerNorm(256, bias=False)), "norm has no bias"),
    "norm of two dimensions": (put("norm", nn.LayerNorm((5, 256))), "norm normalises (5, 256) numbers"),
    "part on no device": (lambda m: m.blocks[1].to("meta"), "blocks.1.norm1 has a weight without numbers"),
    "whole numbers": (
        lambda m: setattr(m.head, "weight", nn.Parameter(m.head.weight.detach().to(torch.int8), requires_grad=False)),
        "head has a weight without numbers to multiply (torch.int8 on cpu)",
    ),
    "bias that is no parameter": (
        lambda m: [delattr(m.head, "bias"), setattr(m.head, "bias", torch.ones(5))],
        "head has a bias that is neither a parameter nor a buffer",
    ),
    "tensor for a number": (
        lambda m: setattr(m.blocks[0].attn, "scale", torch.tensor(0.5)),
        "blocks.0.attn has a Tensor as scale, not a number",
    ),
    "none for a number": (lambda m: setattr(m.blocks[1].norm1, "eps", None), "norm1 has a NoneType as eps"),
    "wrong width": (put("blocks.0.mlp.fc2", nn.Linear(500, 256)), "do not match each other"),
    "wrong heads": (lambda m: setattr(m.blocks[0].attn, "heads", 7), "do not match each other"),
    "wrong norm": (put("blocks.1.norm2", nn.LayerNorm(128)), "do not match each other"),
}


def verbs() -> dict[str, Callable[[nn.Module], object]]:
    return {"pack": pack, "fuse": fuse}


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("verb", ["pack", "fuse"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_by_name(change: str, verb: str) -> None:
    model = small()
    verbs()[verb](small())  # as it was, it is taken
    make, said = CHANGES[change]
    make(model)
    with pytest.raises(UserError) as refusal:
        verbs()[verb](model)
    assert str(refusal.value).startswith(f"cannot {verb} the network: ")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@contextmanager
def replaced(kind: type, name: str) -> Iterator[None]:
    usual, is_own = getattr(kind, name), name in vars(kind)
    setattr(kind, name, partialmethod(usual))
    try:
        yield
    finally:
        if is_own:
            setattr(kind, name, usual)
        else:
            delattr(kind, name)


@pytest.mark.parametrize(
    ("kind", "name", "where"),
    [
        (nn.Linear, "__call__", "is a Linear, whose __call__ was replaced"),
        (nn.Module, "__call__", "the model is a T2TViT, whose __call__ was replaced"),
        (Mlp, "__call__", "blocks.0.mlp is a Mlp, whose __call__ was replaced"),
        (Attention, "mix", "blocks.0.attn is a Attention, whose mix was replaced"),
        (Mlp, "forward", "blocks.0.mlp is a Mlp, whose forward was replaced"),
        (nn.Linear, "forward", "is a Linear, whose forward was replaced"),
        (nn.LayerNorm, "forward", "is a LayerNorm, whose forward was replaced"),
        (T2TViT, "forward_head", "the model is a T2TViT, whose forward_head was replaced"),
        (Dropout, "forward", "is a Dropout, whose forward was replaced"),
    ],
)
def test_a_class_that_was_patched(kind: type, name: str, where: str) -> None:
    model = small()
    with replaced(kind, name), pytest.raises(UserError, match=where):
        pack(model)
    pack(model)


@pytest.mark.parametrize("name", ["forward", "forward_features"])
def test_a_method_of_a_class_that_ours_is_made_from(name: str) -> None:
    """Of timm's face, which has neither of its own; the same of an attention, which has `mix` from the plain one."""
    import timm

    import t2t_vit.timm

    model = timm.create_model("t2t_vit_7", img_size=32).eval()
    for kind in (T2TViT, t2t_vit.timm.TimmT2TViT):
        with replaced(kind, name), pytest.raises(UserError, match=f"the model is a TimmT2TViT, whose {name} was rep"):
            pack(model)
    with replaced(Attention, "mix"), pytest.raises(UserError, match="attn is a SEAttention, whose mix was replaced"):
        pack(small("t2t_vit_14_se"))


@pytest.mark.parametrize(
    ("room", "name"),
    [(nn.functional, "linear"), (nn.functional, "scaled_dot_product_attention"), (backbone, "self_attention")],
)
def test_a_function_that_was_replaced(room: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = getattr(room, name)
    monkeypatch.setattr(room, name, lambda *given, **named: 2 * usual(*given, **named))
    with pytest.raises(UserError, match=rf"computes with {room.__name__}\.{name}, which was replaced"):
        pack(small())


@pytest.mark.usefixtures("triton_device")
def test_a_network_with_shared_modules_stays_whole() -> None:
    """Its shapes are looked at on a copy without numbers, which once took the place of the network's own."""
    model, images = small(), torch.randn(2, 3, 32, 32)
    model.blocks[1] = model.blocks[0]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model)
    fuse(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    unfuse(model)(images)


def test_a_hook_of_all_modules() -> None:
    with (
        nn.modules.module.register_module_forward_hook(lambda *_: None),
        pytest.raises(UserError, match="a hook of all modules is registered"),
    ):
        pack(small())


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("path", ["", "pos_drop", "blocks.1.mlp", "tokens_to_token.attention2.drop"])
def test_training_mode_is_for_fuse_alone(path: str) -> None:
    model = small()
    module = model.get_submodule(path)
    module.training = True
    with pytest.raises(UserError, match=f"{path or 'the model'} is in training mode; call eval"):
        pack(model)
    fuse(model)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (as_other, "the model is a OtherNetwork, not a T2TViT"),
        (FeaturesOnly, "the model is a FeaturesOnly"),
        (nn.Sequential, "the model is a Sequential"),
        (torch.compile, "the model is a OptimizedModule"),
        (nn.DataParallel, "the model is a DataParallel"),
        (torch.fx.symbolic_trace, "the model is a torch.fx.graph_module.T2TViT"),
    ],
)
def test_only_the_network_itself(wrap: Callable[[nn.Module], nn.Module], said: str) -> None:
    wrapped = wrap(small()).eval()
    with pytest.raises(UserError, match=said):
        pack(wrapped)  # type: ignore[arg-type]


def test_a_network_from_timms_registry_is_ours() -> None:
    import timm

    import t2t_vit.timm  # noqa: F401

    model = timm.create_model("t2t_vit_7", img_size=32, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pack(model)(images), model(images).detach(), atol=5e-6, rtol=0)


TAKEN: dict[str, Callable[[T2TViT], object]] = {
    "eps": lambda m: setattr(m.blocks[0].norm1, "eps", 0.5),
    "eps of windows": lambda m: setattr(m.tokens_to_token.attention1.norm1, "eps", 0.5),
    "scale": lambda m: setattr(m.blocks[0].attn, "scale", 1.0),
    "heads": lambda m: setattr(m.blocks[0].attn, "heads", 8),
    "tanh GELU": lambda m: setattr(m.blocks[0].mlp, "act", nn.GELU("tanh").eval()),
    "narrower MLP": lambda m: m.blocks.__setitem__(0, narrowed(m)),
    "bias on qkv": put("blocks.0.attn.qkv", nn.Linear(256, 768)),
    "no bias on the head": put("head", nn.Linear(256, 5, bias=False)),
    "frozen": lambda m: m.requires_grad_(False),
    "another head": lambda m: m.reset_classifier(3, "avg"),
    "pruned to features": lambda m: m.prune_intermediate_layers(1, prune_norm=True),
    "through .data": lambda m: m.blocks[0].mlp.fc1.bias.data.fill_(1.0),
    "tied": lambda m: setattr(m.blocks[0].mlp.fc1, "weight", m.blocks[1].mlp.fc1.weight),
    "heads taken out": lambda m: without_a_head(m.blocks[0].attn),
    "cut weights alone": lambda m: cut(m.blocks[0].mlp, 96),
    "weights cut to an odd length": lambda m: cut(m.blocks[0].mlp, 99),
    "shared block": lambda m: m.blocks.__setitem__(1, m.blocks[0]),
    "shared attention": lambda m: setattr(m.blocks[1], "attn", m.blocks[0].attn),
    "shared layer": lambda m: setattr(m.blocks[1].mlp, "fc1", m.blocks[0].mlp.fc1),
    "what cannot be copied": lambda m: setattr(m.blocks[0], "lock", Lock()),
    "a tensor of a graph": lambda m: setattr(m, "last", m.head(torch.ones(256))),
    "compiled in place": lambda m: m.blocks[0].compile(backend="eager"),
    "strided weight": lambda m: setattr(m.head, "weight", nn.Parameter(torch.randn(256, 5).t())),
}


def without_a_head(attn: Attention) -> None:
    """Its layers keep saying how wide they were, as those of most tools that prune do."""
    attn.qkv.weight = nn.Parameter(attn.qkv.weight.detach().view(3, 4, 64, 256)[:, :3].reshape(-1, 256))
    attn.proj.weight = nn.Parameter(attn.proj.weight.detach()[:, :192].clone())
    attn.heads = 3


def cut(mlp: Mlp, hidden: int) -> None:
    mlp.fc1.weight = nn.Parameter(mlp.fc1.weight.detach()[:hidden].clone())
    mlp.fc1.bias = nn.Parameter(mlp.fc1.bias.detach()[:hidden].clone())
    mlp.fc2.weight = nn.Parameter(mlp.fc2.weight.detach()[:, :hidden].clone())


def narrowed(model: T2TViT) -> nn.Module:
    block = model.blocks[0]
    block.mlp.fc1, block.mlp.fc2 = nn.Linear(256, 100).eval(), nn.Linear(100, 256).eval()
    return block


@pytest.mark.parametrize("change", TAKEN)
def test_what_the_modules_say_is_what_is_packed(change: str) -> None:
    """What is ours still is taken as it is now, with the same numbers; bfloat16, too."""
    model, images = small(), torch.randn(2, 3, 32, 32)
    TAKEN[change](model)
    with torch.no_grad():
        exact = model(images)
    torch.testing.assert_close(pack(model)(images), exact, atol=2e-5, rtol=1e-5)
    assert (pack(model, torch.bfloat16)(images).float() - exact).abs().max() < 0.03 * exact.abs().max().clamp(min=1)
