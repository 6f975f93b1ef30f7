"""`pack`: the same numbers as the network to rounding, from a frozen copy that says what it is made of."""

import copy
import pickle
import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from golden import fill_by_formula, golden_case, golden_images, golden_names
from t2t_vit import PackedNetwork, UserError, create_model, list_models, pack
from t2t_vit.fast import packed_linear as packed_linear_module
from t2t_vit.fast.packed_linear import pack_weight, packed_linear, packed_linear_add
from t2t_vit.model import T2TViT

CASES = [name for name in golden_names() if not name.endswith("_384")]
IMAGES = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(5))


def small() -> T2TViT:
    torch.manual_seed(1)
    return create_model("t2t_vit_quickstart", image_size=28, in_chans=1, num_classes=5).eval()


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """The packed network keeps to the authors' float32 outputs like the network itself, on flat areas too."""
    case = golden_case(name)
    model = create_model(case.arch, image_size=case.size).eval()
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
        exact = model(images)
        packed = pack(model, torch.bfloat16)(images).float()
        with torch.autocast("cpu", torch.bfloat16):
            usual = model(images).float()
    assert (packed - exact).abs().max() <= 3 * (usual - exact).abs().max() + 1e-6


def test_tanh_gelu_odd_sizes_and_other_channels() -> None:
    model = create_model("t2t_vit_7", image_size=(40, 72), in_chans=4, num_classes=3, approximate_gelu=True).eval()
    images = torch.randn(3, 4, 40, 72)
    with torch.inference_mode():
        torch.testing.assert_close(pack(model)(images), model(images), atol=5e-6, rtol=0)


@pytest.mark.parametrize("native", [None, False])
@pytest.mark.parametrize("arch", list_models())
def test_every_variant(arch: str, native: bool | None) -> None:
    torch.manual_seed(0)
    size = 28 if arch == "t2t_vit_quickstart" else 32
    model = create_model(arch, image_size=size, num_classes=7).eval()
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        exact = model(images)
    torch.testing.assert_close(pack(model, native=native)(images), exact, atol=5e-6, rtol=0)
    assert (pack(model, torch.bfloat16, native=native)(images).float() - exact).abs().max() < 0.03


def test_the_network_itself_is_left_as_it_was() -> None:
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    pack(model, torch.bfloat16)
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: type(module) for name, module in model.named_modules()} == kinds


def test_it_is_frozen() -> None:
    model = small()
    packed = pack(model)
    before = packed(IMAGES)
    with torch.no_grad():
        model.head.bias.fill_(9.0)
    assert torch.equal(packed(IMAGES), before)
    assert not packed(IMAGES.clone().requires_grad_()).requires_grad
    assert packed.eval() is packed
    with pytest.raises(UserError, match="frozen"):
        packed.train()


def test_it_says_what_it_is_made_of() -> None:
    packed = pack(small(), native=False)
    assert repr(packed) == f"PackedNetwork(t2t_vit_quickstart, 1 x 28 x 28 -> 5; {packed.made_of})"
    assert packed.made_of.startswith("float32; ")
    assert "native" not in packed.made_of
    assert re.search(r"\b26 linear layers", packed.made_of)  # 2 x 4 in the attentions, project, 4 x 4 in blocks, head
    assert pack(small(), torch.bfloat16).made_of.startswith("bfloat16; ")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 0.03)])
def test_without_onednn(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors with AVX2 alone for bfloat16, and in a torch that was built without it."""
    monkeypatch.setattr(packed_linear_module, "_has_onednn", lambda _: False)
    model = small()
    packed = pack(model, dtype, native=False)
    assert "; torch: 26 linear layers" in packed.made_of
    torch.testing.assert_close(packed(IMAGES).float(), model(IMAGES).detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), "float images on the CPU, got torch.uint8"),
        (torch.zeros(2, 1, 28, 28, device="meta"), "got torch.float32 on meta"),
        (torch.zeros(2, 3, 28, 28), "built for images of"),
        (torch.zeros(2, 1, 32, 28), "built for images of"),
    ],
)
def test_what_it_does_not_take(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(small())(images)


def test_no_image_and_other_dtypes_of_images() -> None:
    packed = pack(small())
    assert packed(IMAGES[:0]).shape == (0, 5)
    torch.testing.assert_close(packed(IMAGES.double()), packed(IMAGES))
    assert pack(small(), torch.bfloat16)(IMAGES).dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(IMAGES), pack(small())(IMAGES))


def test_dtypes() -> None:
    assert pack(small().bfloat16()).dtype is torch.bfloat16
    for model in (small().double(), small().half()):
        with pytest.raises(UserError, match="give float32 or bfloat16 as dtype"):
            pack(model)
        assert pack(model, torch.float32).dtype is torch.float32
    with pytest.raises(UserError, match="in float16"):
        pack(small(), torch.float16)


def test_other_sizes_pooling_and_no_head() -> None:
    torch.manual_seed(0)
    model = create_model("t2t_vit_7", image_size=64, num_classes=4, other_sizes="resize", global_pool="avg").eval()
    for size in ((64, 64), (96, 48)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(pack(model)(images), model(images).detach(), atol=5e-6, rtol=0)
    model.reset_classifier(0, "")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(pack(model)(images), model(images).detach(), atol=2e-5, rtol=0)


def test_copies_and_pickles_of_the_network_do_not_carry_it() -> None:
    model = small()
    assert isinstance(pack(model), PackedNetwork)
    twin = copy.deepcopy(model)
    assert {*vars(twin)} == {*vars(small())}
    assert len(pickle.dumps(model)) < 1.2 * sum(tensor.nbytes for tensor in model.state_dict().values()) + 100_000


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


def test_a_bias_that_the_token_attention_usually_has_not() -> None:
    model = create_model("t2t_vit_t_14", image_size=32, num_classes=5).eval()
    model.blocks = model.blocks[:1]
    model.tokens_to_token.attention1.attn.qkv = torch.nn.Linear(147, 192).eval()
    torch.nn.init.normal_(model.tokens_to_token.attention1.attn.qkv.bias)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pack(model)(images), model(images).detach(), atol=1e-5, rtol=1e-5)


def test_several_dtypes_need_one_to_be_named() -> None:
    """The plain network refuses such a sum of layers, or computes each in its own."""
    model = small()
    model.head.double()
    with pytest.raises(UserError, match=r"head\.weight is of float64, cls_token of float32; give float32 or bfloat16"):
        pack(model)
    assert pack(model, torch.float32)(IMAGES).shape == (2, 5)


def test_what_would_change_a_packed_network_is_refused() -> None:
    packed = pack(small())
    before = packed(IMAGES)
    for change in (packed.double, packed.half, lambda: packed.to("meta")):
        with pytest.raises(UserError, match="stays in float32 on the CPU; pack the original network in another dtype"):
            change()
    for name in ("load_state_dict", "state_dict"):
        with pytest.raises(UserError, match="then pack it again"):
            getattr(packed, name)({})
    with pytest.raises(UserError, match="cannot be copied or pickled"):
        copy.deepcopy(packed)
    assert packed.to("cpu", torch.float32).to_empty(device="cpu") is packed
    assert torch.equal(packed(IMAGES), before)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_packed_network_is_not_traced() -> None:
    """Kernels would read memory that stand-ins do not have, or write what a trace takes for constants."""
    packed = pack(small())
    images = IMAGES
    refused = pytest.raises(ValueError, match="cannot be traced, exported or transformed; use the original network")
    with refused:
        torch.func.grad(lambda given: packed(given).sum())(images)
    with refused:
        torch.vmap(lambda image: packed(image[None]))(images)
    with refused:
        torch.jit.trace(packed, images)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, refused:
        packed(fake.from_tensor(images))
    negated = torch.complex(torch.zeros_like(images), -images).conj().imag
    assert negated.is_neg()
    assert torch.equal(packed(negated), packed(images))
