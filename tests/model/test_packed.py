import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from golden import fill_by_formula, golden_case, golden_images, golden_names
from t2t_vit import create_model
from t2t_vit.model import T2TViT
from t2t_vit.model.packed import PackedNetwork, pack, packed_for
from t2t_vit.ops.packed_linear import can_pack, pack_weight, packed_linear, packed_linear_add

CASES = [name for name in golden_names() if not name.endswith("_384")]


def test_this_build_can_pack() -> None:
    cpu = torch.device("cpu")
    assert can_pack(cpu, torch.float32)
    assert can_pack(cpu, torch.bfloat16)
    assert not can_pack(cpu, torch.float16)
    assert not can_pack(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """The packed network keeps to the authors' float32 outputs like the network itself, on flat areas too."""
    case = golden_case(name)
    model = create_model(case.arch, image_size=case.size)
    fill_by_formula(model)
    with torch.inference_mode():
        logits = pack(model)(golden_images(case.size, case.size, case.flat))
    assert (logits - case.tensors["logits"]).abs().max() <= 5e-6


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14"])
def test_bfloat16_errs_hardly_more_than_autocast(arch: str, flat: bool) -> None:
    """err(packed) <= 3 err(network under autocast), both against float32.

    Autocast keeps the residual stream in float32, here it is in bfloat16 like everything else.
    """
    model = create_model(arch, image_size=96).eval()
    fill_by_formula(model)
    images = golden_images(96, 96, flat)
    with torch.inference_mode():
        exact = plain(model, images)
        packed = pack(model, torch.bfloat16)(images).float()
        with torch.autocast("cpu", torch.bfloat16):
            usual = plain(model, images).float()
    assert (packed - exact).abs().max() <= 3 * (usual - exact).abs().max() + 1e-6


def test_tanh_gelu_odd_sizes_and_other_channels() -> None:
    model = create_model("t2t_vit_7", image_size=(40, 72), in_chans=4, num_classes=3, approximate_gelu=True).eval()
    images = torch.randn(3, 4, 40, 72)
    with torch.inference_mode():
        torch.testing.assert_close(pack(model)(images), plain(model, images), atol=5e-6, rtol=0)


def test_the_network_itself_is_left_as_it_was() -> None:
    model = create_model("t2t_vit_quickstart", image_size=28)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model, torch.bfloat16)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("rows", [1, 7, 64])
@torch.inference_mode()
def test_packed_linear(rows: int) -> None:
    inputs, weight, bias = torch.randn(2, rows, 24), torch.randn(40, 24), torch.randn(40)
    residual = torch.randn(2, rows, 40)
    packed, exact = pack_weight(weight, 50), inputs @ weight.t() + bias
    torch.testing.assert_close(packed_linear(inputs, packed, bias), exact)
    for activation, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
        expected = torch.nn.functional.gelu(exact, approximate=approximate)
        torch.testing.assert_close(packed_linear(inputs, packed, bias, activation), expected)  # type: ignore[arg-type]
    torch.testing.assert_close(packed_linear_add(inputs, packed, bias, residual), exact + residual)
    torch.testing.assert_close(packed_linear(inputs, packed, None), exact - bias)


def small() -> T2TViT:
    return create_model("t2t_vit_quickstart", image_size=28, in_chans=1, num_classes=5).eval()


def plain(model: T2TViT, images: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(images))


IMAGES = torch.randn(2, 1, 28, 28)


@torch.no_grad()
def test_inference_on_a_cpu_is_packed_by_itself() -> None:
    model = small()
    first = packed_for(model, IMAGES, "auto")
    assert isinstance(first, PackedNetwork)
    assert packed_for(model, IMAGES, "auto") is first
    torch.testing.assert_close(model(IMAGES), plain(model, IMAGES), atol=5e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        low = packed_for(model, IMAGES, "auto")
        assert low is not None
        assert low.dtype is torch.bfloat16
        assert model(IMAGES).dtype is torch.bfloat16
    assert packed_for(model, IMAGES, "auto") is first


CHANGES: dict[str, Callable[[T2TViT], object]] = {
    "in place": lambda model: model.blocks[1].mlp.fc1.weight.mul_(1.5),
    "a bias in place": lambda model: model.head.bias.add_(1.0),
    "behind torch's back": lambda model: model.blocks[1].mlp.fc1.weight.data.mul_(1.5),
    "loaded": lambda model: model.load_state_dict(small().state_dict()),
    "another head": lambda model: model.reset_classifier(7),
    "other pooling": lambda model: model.reset_classifier(5, "avg"),
    "another block": lambda model: model.blocks.__setitem__(0, small().blocks[0]),
    "another dtype": lambda model: model.bfloat16(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_weights_are_packed_again(change: str) -> None:
    model = small()
    before = model(IMAGES)
    CHANGES[change](model)
    images = IMAGES.to(model.cls_token.dtype)
    exact, after = plain(model, images), model(images)
    assert before.shape != after.shape or not torch.equal(before, after)
    torch.testing.assert_close(after, exact, atol=5e-6 if exact.dtype is torch.float32 else 0.05, rtol=0)


# torch's own attention says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_who_wants_to_see_the_layers_sees_them() -> None:
    model, seen = small(), []
    with torch.no_grad():
        handle = model.blocks[0].register_forward_hook(lambda *_: seen.append("hook"))
        assert packed_for(model, IMAGES, "auto") is None
        model(IMAGES)
        assert seen == ["hook"]
        handle.remove()
        with FlopCounterMode(display=False) as counter:
            model(IMAGES)
        assert counter.get_total_flops() > 1e6
        program = torch.export.export(model, (IMAGES,))
        assert "aten.layer_norm.default" in {str(node.target) for node in program.graph.nodes}
        assert packed_for(model, IMAGES, "reference") is None
        assert torch.vmap(lambda image: model(image[None])[0])(IMAGES).shape == (2, 5)
        assert packed_for(model.train(), IMAGES, "auto") is None
    model.eval()
    assert packed_for(model, IMAGES, "auto") is None  # gradients are on
    assert model(IMAGES).requires_grad


@torch.no_grad()
def test_copies_and_pickles_do_not_carry_it() -> None:
    model = small()
    model(IMAGES)
    twin = copy.deepcopy(model)
    twin.head.weight.zero_()
    twin.head.bias.zero_()
    assert not twin(IMAGES).any()
    assert model(IMAGES).any()
    assert len(pickle.dumps(model)) < 1.2 * sum(tensor.nbytes for tensor in model.state_dict().values()) + 100_000


def test_weights_made_in_inference_mode_run_as_they_are() -> None:
    with torch.inference_mode():
        model = small()
        assert packed_for(model, IMAGES, "auto") is None
        assert model(IMAGES).shape == (2, 5)
