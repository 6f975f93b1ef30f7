"""The key `kernels`: which network a command runs, and what it says of it."""

import pytest
import torch

from t2t_vit import PackedNetwork, UserError, create_model
from t2t_vit.fast import kernels as module
from t2t_vit.fast.fusing import is_fused
from t2t_vit.fast.kernels import NAMES, check_kernels, for_evaluation, fused_or_plain, packs, prepared
from t2t_vit.fast.native import unavailable
from t2t_vit.model import T2TViT
from t2t_vit.precision import Precision

CPU = torch.device("cpu")
FLOAT32, BF16 = Precision("O0", CPU), Precision("bf16", CPU, autocast_dtype=torch.bfloat16)
HALF = Precision("O3", CPU, weights_dtype=torch.float16)


def small() -> T2TViT:
    return create_model("t2t_vit_quickstart", image_size=28, in_chans=1, num_classes=5).eval()


@pytest.mark.parametrize(
    ("kernels", "device", "reason"),
    [
        ("fast", "cpu", f"kernels 'fast' do not exist; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}"),
        ("cpu", "cuda", "kernels 'cpu' cannot run: they are for inference on a CPU, but the device is cuda"),
        ("native", "mps", "kernels 'native' cannot run: they are for inference on a CPU, but the device is mps"),
        ("triton", "meta", "kernels 'triton' cannot run: its kernels need a CUDA device"),
    ],
)
def test_what_cannot_run_says_why(kernels: str, device: str, reason: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_kernels(kernels, torch.device(device))
    assert str(refusal.value).startswith(reason)


def test_native_kernels_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "unavailable", lambda: "there is no C++ compiler")
    with pytest.raises(UserError, match="kernels 'native' cannot run: there is no C\\+\\+ compiler; 'auto' chooses"):
        prepared(small(), "native", FLOAT32)


@pytest.mark.parametrize(
    ("kernels", "precision", "packed"),
    [
        ("auto", FLOAT32, torch.float32),
        ("auto", BF16, torch.bfloat16),
        ("auto", HALF, None),
        ("cpu", FLOAT32, torch.float32),
        ("cpu", BF16, torch.bfloat16),
        ("reference", FLOAT32, None),
        ("reference", BF16, None),
    ],
)
def test_what_predicts_on_a_cpu(kernels: str, precision: Precision, packed: torch.dtype | None) -> None:
    model = small()
    network, made_of = prepared(model, kernels, precision)
    assert packs(kernels, precision) == (packed is not None)
    if packed is None:
        assert network is model
        assert made_of == "the plain network"
    else:
        assert isinstance(network, PackedNetwork)
        assert network.dtype is packed
        assert made_of == f"a packed copy ({network.made_of})"
        assert ("native" in made_of) == (kernels != "cpu" and unavailable() is None)


def test_float16_is_not_packed_by_name_either() -> None:
    with pytest.raises(UserError, match="cannot pack the network in float16"):
        prepared(small(), "cpu", HALF)


@pytest.mark.parametrize("kernels", ["auto", "cpu", "reference"])
def test_a_training_on_a_cpu_is_plain_and_evaluated_by_a_copy_of_now(kernels: str) -> None:
    model = small().train()
    assert fused_or_plain(model, kernels, CPU) == "the plain network"
    images = torch.randn(2, 1, 28, 28)
    for number in range(2):
        with torch.no_grad():
            model.head.bias.fill_(number)
        evaluated = for_evaluation(model, kernels, FLOAT32)
        assert isinstance(evaluated, PackedNetwork) == (kernels != "reference")
        assert model.training
        with torch.no_grad():
            wanted = model.eval()(images)
            torch.testing.assert_close(evaluated.eval()(images), wanted, atol=5e-6, rtol=0)
        model.train()


@pytest.mark.usefixtures("triton_device")
def test_triton_by_name_and_never_by_auto_in_the_interpreter() -> None:
    model = small()
    if not torch.cuda.is_available():
        assert fused_or_plain(model, "auto", CPU) == "the plain network"
        assert not is_fused(model)
        assert fused_or_plain(model, "triton", CPU) == "fused with Triton's kernels"
        assert is_fused(model)


def test_another_module_stays_what_it_is() -> None:
    linear = torch.nn.Linear(3, 2)
    assert prepared(linear, "auto", FLOAT32) == (linear, "the plain network")
    assert for_evaluation(linear, "auto", FLOAT32) is linear
