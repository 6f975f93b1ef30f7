"""Each form of split + LayerNorm + Linear against the reference, by the error that low precision costs that."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from t2t_vit.errors import UserError
from t2t_vit.ops import split_norm_linear_cpu as pieces
from t2t_vit.ops.soft_split import Window
from t2t_vit.ops.split_norm_linear import check_kernels, split_linear, split_norm_linear
from t2t_vit.ops.split_norm_linear_fused import fused, fused_backward

NAMES = ("answer", "features", "norm weight", "norm bias", "weight", "bias")


class Shape(NamedTuple):
    features: tuple[int, int, int, int]
    window: Window
    out: int


SHAPES = {
    "first": Shape((2, 3, 13, 10), Window(7, 4, 2), 24),
    "second": Shape((1, 20, 7, 8), Window(3, 2, 1), 70),
    "apart": Shape((5, 2, 9, 11), Window(2, 3, 0), 17),
}
PICTURES = {
    "noise": torch.randn,
    "black": torch.zeros,
    "dark": lambda *shape: torch.zeros(*shape).sub(0.5).div(0.5),
    "white": lambda *shape: torch.ones(*shape).sub(0.485).div(0.229),
    "almost flat": lambda *shape: 2.64 + 1e-3 * torch.randn(*shape),
}


def inputs_of(shape: Shape, picture: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Features, norm weight and bias, weight and bias, from one seed."""
    torch.manual_seed(0)
    length = shape.features[1] * shape.window.kernel**2
    given = [
        PICTURES[picture](*shape.features),
        1 + 0.1 * torch.randn(length),
        0.1 * torch.randn(length),
        torch.randn(shape.out, length) * length**-0.5,
        torch.randn(shape.out),
    ]
    return [tensor.to(device, dtype) for tensor in given]


def computed(given: list[Tensor], shape: Shape, kernels: str, autocast: torch.dtype | None = None) -> list[Tensor]:
    """The answer and the gradients of all inputs."""
    given = [tensor.detach().requires_grad_() for tensor in given]
    features, norm_weight, norm_bias, weight, bias = given
    with torch.autocast(features.device.type, dtype=autocast, enabled=autocast is not None):
        answer = split_norm_linear(features, *shape.window, norm_weight, norm_bias, 1e-5, weight, bias, kernels)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(answer.shape, generator=generator).half().to(answer)
    return [answer.detach(), *torch.autograd.grad(answer, given, grad)]


def hold_the_law(given: list[Tensor], shape: Shape, kernels: str, autocast: torch.dtype | None = None) -> None:
    """err(form) <= 2 err(reference) + 1e-6, both in the inputs' precision, against float64; answer and gradients."""
    exact = computed([tensor.double() for tensor in given], shape, "reference")
    reference = computed(given, shape, "reference", autocast)
    ours = computed(given, shape, kernels, autocast)
    for name, truth, theirs, own in zip(NAMES, exact, reference, ours, strict=True):
        assert own.dtype is theirs.dtype, name
        assert own.shape == theirs.shape, name
        allowed = 2 * (theirs.double() - truth).abs().max() + 1e-6
        assert (own.double() - truth).abs().max() <= allowed, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_by_pieces(shape: str, picture: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 700)
    hold_the_law(inputs_of(SHAPES[shape], picture, dtype, torch.device("cpu")), SHAPES[shape], "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("picture", PICTURES)
def test_triton(picture: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    hold_the_law(inputs_of(SHAPES["first"], picture, dtype, triton_device), SHAPES["first"], "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", ["second", "apart"])
def test_triton_on_other_shapes(shape: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    given = inputs_of(SHAPES[shape], "noise", dtype, triton_device)
    given[0] = given[0].contiguous(memory_format=torch.channels_last)
    hold_the_law(given, SHAPES[shape], "triton")


def test_a_thousand_images() -> None:
    shape = Shape((1000, 1, 4, 3), Window(3, 2, 1), 5)
    hold_the_law(inputs_of(shape, "noise", torch.float32, torch.device("cpu")), shape, "cpu")


@pytest.mark.parametrize("windows", [64, 50])  # what one step takes, and what it does not
def test_parts_of_the_batch(windows: int, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole parts of windows and one that is not, summed for the parameters' gradients."""
    monkeypatch.setattr("t2t_vit.ops.split_norm_linear_triton.PART_WINDOWS", windows)
    shape = Shape((36, 1, 4, 3), Window(3, 2, 1), 5)
    hold_the_law(inputs_of(shape, "noise", torch.float32, triton_device), shape, "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_in_bfloat16(shape: str, picture: str) -> None:
    hold_the_law(inputs_of(SHAPES[shape], picture, torch.bfloat16, torch.device("cuda")), SHAPES[shape], "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_on_the_networks_own_shapes(batch: int, dtype: torch.dtype) -> None:
    for channels, size, window in ((3, 64, Window(7, 4, 2)), (64, 16, Window(3, 2, 1))):
        shape = Shape((batch, channels, size, size), window, 192)
        hold_the_law(inputs_of(shape, "noise", dtype, torch.device("cuda")), shape, "triton")


@pytest.mark.gpu
def test_places_beyond_32_bits() -> None:
    """4000 x 3136 x 192 numbers: the last image's are those of the image alone."""
    shape = Shape((1, 3, 224, 224), Window(7, 4, 2), 192)
    image, *given = inputs_of(shape, "noise", torch.bfloat16, torch.device("cuda"))
    images = torch.zeros(4000, 3, 224, 224, dtype=torch.bfloat16, device="cuda")
    images[-1] = image[0]
    with torch.no_grad():
        arguments = (*shape.window, *given[:2], 1e-5, *given[2:], "triton")
        assert torch.equal(split_norm_linear(images, *arguments)[-1:], split_norm_linear(image, *arguments))


@pytest.mark.parametrize(("kernels", "low"), [("cpu", torch.bfloat16), ("triton", torch.float16)])
def test_autocast(kernels: str, low: torch.dtype, triton_device: torch.device) -> None:
    device = triton_device if kernels == "triton" else torch.device("cpu")
    hold_the_law(inputs_of(SHAPES["first"], "noise", torch.float32, device), SHAPES["first"], kernels, low)


@pytest.mark.parametrize("kernels", ["cpu", "triton"])
def test_the_same_bits_at_every_run(kernels: str, triton_device: torch.device) -> None:
    given = inputs_of(SHAPES["first"], "noise", torch.float32, triton_device if kernels == "triton" else "cpu")
    for one, other in zip(*(computed(given, SHAPES["first"], kernels) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_an_image_has_the_same_answer_alone_and_in_a_batch(triton_device: torch.device) -> None:
    features, *given = inputs_of(SHAPES["apart"], "noise", torch.float32, triton_device)
    arguments = (*SHAPES["apart"].window, *given[:2], 1e-5, *given[2:], "triton")
    together = split_norm_linear(features, *arguments)
    assert torch.equal(split_norm_linear(features[3:4], *arguments), together[3:4])


class Largest(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, tuple | list) else (given,):
            # Views of all windows are free.
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return given


def test_the_windows_of_a_batch_are_never_made(monkeypatch: pytest.MonkeyPatch, triton_device: torch.device) -> None:
    shape = Shape((6, 3, 20, 20), Window(7, 4, 2), 8)
    given = inputs_of(shape, "noise", torch.float32, triton_device)
    unfolded = 6 * 5 * 5 * 147 * 4
    monkeypatch.setattr(pieces, "PIECE", 25 * 147)
    grad = torch.ones(6, 25, 8, device=triton_device)
    window = list(shape.window)
    with Largest() as seen:
        pieces.forward_by_pieces(*given, window, 1e-5, torch.float32)
        pieces.backward_by_pieces(grad, *given[:4], window, 1e-5)
        _, *moments = fused._init_fn(*given, window, 1e-5, torch.float32)
        fused_backward._init_fn(grad, given[0], *moments, *given[1:4], window, True)
    assert 0 < seen.bytes < unfolded / 2
    with Largest() as seen:
        split_norm_linear(given[0], *window, *given[1:3], 1e-5, given[3], kernels="reference")
    assert seen.bytes >= unfolded


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kernels", ["cpu", "triton"])
def test_torch_sees_the_operation(kernels: str, triton_device: torch.device) -> None:
    """Its schema, fake tensors, gradients and dynamic shapes under torch.compile's tracing."""
    shape = Shape((2, 2, 6, 5), Window(3, 2, 1), 7)
    given = inputs_of(shape, "noise", torch.float32, triton_device if kernels == "triton" else "cpu")
    given = [tensor.requires_grad_() for tensor in given]
    operation = fused if kernels == "triton" else pieces.split_norm_linear_cpu
    torch.library.opcheck(operation, (*given, list(shape.window), 1e-5, torch.float32))


def test_what_needs_no_gradient_costs_none(triton_device: torch.device) -> None:
    features, *given = inputs_of(SHAPES["first"], "noise", torch.float32, triton_device)
    weights = [tensor.requires_grad_() for tensor in given[:3]]
    for kernels in ("cpu", "triton"):
        answer = split_norm_linear(features, *SHAPES["first"].window, *weights[:2], 1e-5, weights[2], kernels=kernels)
        answer.sum().backward()
        assert features.grad is None
        assert all(weight.grad is not None for weight in weights)


def test_half_precision_is_a_convolution() -> None:
    """W x + b, exact in float32 to the bit of unfolding, and no less exact than that in bfloat16."""
    shape = SHAPES["second"]
    features, _, _, weight, bias = inputs_of(shape, "noise", torch.float32, torch.device("cpu"))
    truth = split_linear(features.double(), *shape.window, weight.double(), bias.double())
    assert (split_linear(features, *shape.window, weight, bias) - truth).abs().max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        low = split_linear(features, *shape.window, weight, bias)
    assert low.dtype is torch.bfloat16
    assert low.shape == truth.shape
    assert (low - truth).abs().max() < 3e-2


def test_mistakes() -> None:
    features, *given = inputs_of(SHAPES["first"], "noise", torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="for windows of 3 x 3 x 3"):
        split_norm_linear(features, 3, 2, 1, given[0], given[1], 1e-5, given[2])
    with pytest.raises(UserError, match="kernels 'triton' cannot run"):
        check_kernels("triton", torch.device("cpu"))
