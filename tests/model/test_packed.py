import pytest
import torch

from golden import fill_by_formula, golden_case, golden_images, golden_names
from t2t_vit import create_model
from t2t_vit.model.packed import pack
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
