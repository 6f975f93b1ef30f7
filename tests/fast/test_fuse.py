"""`fuse`: the plain network's numbers by other kernels, over the live weights, in place and back."""

import copy
import pickle
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from t2t_vit import UserError, create_model, fuse, pack, unfuse
from t2t_vit.fast import fusing
from t2t_vit.fast.fusing import is_fused, why_not_fusible
from t2t_vit.model import T2TViT
from t2t_vit.model.backbone import Mlp

ARCHS = ("t2t_vit_7", pytest.param("t2t_vit_t_14", marks=pytest.mark.thorough))


def small(arch: str = "t2t_vit_7") -> T2TViT:
    torch.manual_seed(1)
    model = create_model(arch, image_size=32, num_classes=5, performer_drop=0.0)
    model.blocks = model.blocks[:2]
    return model


def images_on(device: torch.device) -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)).to(device)


def step(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Logits and all gradients."""
    model.zero_grad(set_to_none=True)
    logits = model(images)
    logits.square().sum().backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_training_step(arch: str, triton_device: torch.device) -> None:
    plain, images = small(arch).to(triton_device), images_on(triton_device)
    fused = fuse(copy.deepcopy(plain))
    assert is_fused(fused)
    assert not is_fused(plain)
    for ours, theirs in zip(step(fused, images), step(plain, images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_it_is_done_in_place_and_undone(triton_device: torch.device) -> None:
    model = small().to(triton_device)
    kinds = {name: type(module) for name, module in model.named_modules()}
    names = list(model.state_dict())
    assert fuse(model) is model
    assert fuse(model) is model
    assert list(model.state_dict()) == names
    assert unfuse(model) is model
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert unfuse(model) is model


def test_it_reads_the_live_weights(triton_device: torch.device) -> None:
    model, images = fuse(small().to(triton_device).eval()), images_on(triton_device)
    with torch.no_grad():
        model.tokens_to_token.attention1.kqv.weight.data.mul_(2)
        model.tokens_to_token.attention2.norm1.eps = 0.1
        model.tokens_to_token.attention2.w.mul_(0.5)
        fused = model(images)
        plain = unfuse(model)(images)
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
def test_copies_and_pickles_stay_fused(triton_device: torch.device) -> None:
    model, images = fuse(small().to(triton_device).eval()), images_on(triton_device)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert is_fused(twin)
        with torch.no_grad():
            assert torch.equal(twin(images), model(images))
            twin.tokens_to_token.attention1.kqv.weight.zero_()
            assert not torch.equal(twin(images), model(images))


def test_a_fused_network_can_be_packed(triton_device: torch.device) -> None:
    model = fuse(small().to(triton_device).eval())
    packed = pack(model)
    assert is_fused(model)
    images = images_on(torch.device("cpu"))
    with torch.no_grad():
        exact = unfuse(model)(images.to(triton_device)).cpu()
    torch.testing.assert_close(packed(images), exact, atol=1e-5, rtol=0)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


LATER: dict[str, tuple[Callable[[T2TViT], object], str]] = {
    "adapter": (
        lambda m: setattr(m.tokens_to_token.attention1, "kqv", Doubled(147, 192)),
        "tokens_to_token.attention1.kqv is a Doubled",
    ),
    "hook": (
        lambda m: m.tokens_to_token.attention2.norm1.register_forward_hook(lambda *_: None),
        "tokens_to_token.attention2.norm1 has a hook",
    ),
    "patch": (
        lambda m: setattr(m.tokens_to_token.split1, "forward", lambda x: x),
        "tokens_to_token.split1 has its own forward",
    ),
    "hook on an attention": (
        lambda m: m.tokens_to_token.attention1.register_forward_hook(lambda *_: None),
        "tokens_to_token.attention1 has a hook",
    ),
    "patched attention": (
        lambda m: setattr(m.tokens_to_token.attention2, "forward", lambda x: x),
        "tokens_to_token.attention2 has its own forward",
    ),
    "float64": (lambda m: m.double(), "a fused network does not compute in float64"),
    "trained features": (
        lambda m: m.tokens_to_token.attention1.w.requires_grad_(),
        "tokens_to_token.attention1 has a w that requires a gradient",
    ),
    "norm without bias": (
        lambda m: setattr(m.tokens_to_token.attention1, "norm1", nn.LayerNorm(147, bias=False)),
        "tokens_to_token.attention1.norm1 has no bias",
    ),
}


@pytest.mark.parametrize("change", LATER)
def test_what_is_changed_afterwards_is_refused(change: str, triton_device: torch.device) -> None:
    model, images = fuse(small()).to(triton_device), images_on(triton_device)
    make, said = LATER[change]
    make(model)
    with pytest.raises(RuntimeError, match=said):
        model.to(triton_device)(images.to(model.cls_token.dtype))
    unfuse(model)


def test_a_class_that_is_patched_afterwards(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fuse(small().to(triton_device))
    monkeypatch.setattr(Mlp, "forward", lambda _, tokens: tokens)
    with pytest.raises(RuntimeError, match="computes in the place of a Mlp, whose forward was replaced"):
        model(images_on(triton_device))


@pytest.mark.usefixtures("triton_device")
def test_what_the_kernels_cannot_do_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="cls_token is of float64, which the kernels do not compute in"):
        fuse(small().double())
    model = small()
    model.tokens_to_token.attention2.w.requires_grad_()
    with pytest.raises(UserError, match=r"tokens_to_token\.attention2 has a w that requires a gradient"):
        fuse(model)


def test_modules_that_are_called_see_hooks(triton_device: torch.device) -> None:
    model, images, seen = fuse(small().to(triton_device)), images_on(triton_device), list[str]()
    for name in ("tokens_to_token", "tokens_to_token.attention1.proj", "tokens_to_token.project", "blocks.0.mlp.fc1"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    model(images)
    assert seen == [
        "tokens_to_token.attention1.proj",
        "tokens_to_token.project",
        "tokens_to_token",
        "blocks.0.mlp.fc1",
    ]


@pytest.mark.thorough
def test_second_derivatives(triton_device: torch.device) -> None:
    """Of the T2T module; torch's fused attention has none."""
    found = []
    for each in (fuse, unfuse):
        module = each(small().to(triton_device)).tokens_to_token
        images = images_on(triton_device).requires_grad_()
        (grad,) = torch.autograd.grad(module(images).square().sum(), images, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), list(module.parameters()), allow_unused=True))
    for ours, plain in zip(*found, strict=True):
        assert (ours is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, atol=1e-4 * max(1.0, plain.abs().max().item()), rtol=1e-3)


def test_on_a_cpu_it_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    with pytest.raises(UserError, match="cannot fuse the network: its kernels need a CUDA device, but there is none"):
        fuse(small())


def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turing has 64 KiB of shared memory where the kernels want 71 and more."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    cuda = torch.device("cuda")
    assert why_not_fusible(cuda) == "its kernels need a GPU of compute capability 8.0 or more, but this one has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert why_not_fusible(cuda) is None
    assert "the network is on xpu" in str(why_not_fusible(torch.device("xpu"))) or not torch.cuda.is_available()


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "t2t_vit.ops.performer_triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_not_fusible(torch.device("cuda")) == "triton is not installed; it comes with PyTorch for CUDA"


@pytest.mark.usefixtures("triton_device")
def test_what_has_nothing_to_fuse_and_what_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="t2t_vit_c_14 has no soft split"):
        fuse(create_model("t2t_vit_c_14", image_size=32))
    monkeypatch.setattr(fusing, "WIDEST", 32)
    with pytest.raises(UserError, match="take tokens of up to 32 numbers, its performers have 64"):
        fuse(small())
