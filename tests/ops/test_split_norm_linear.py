"""Split + LayerNorm + Linear by Triton against the plain form, by the error that low precision costs that."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from t2t_vit.ops.soft_split import Window
from t2t_vit.ops.split_norm_linear import (
    fused_backward,
    fused_split_norm_linear,
    product_dtype,
    split_norm_linear,
)

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


def answer_of(given: list[Tensor], shape: Shape, *, fused: bool, dtype: torch.dtype | None = None) -> Tensor:
    settings = (list(shape.window), 1e-5, dtype or given[0].dtype)
    return fused_split_norm_linear(*given, *settings)[0] if fused else split_norm_linear(*given, *settings)


def computed(given: list[Tensor], shape: Shape, *, fused: bool, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The answer and the gradients of all inputs; `dtype` of the product, where it is another than the inputs'."""
    given = [tensor.detach().requires_grad_() for tensor in given]
    answer = answer_of(given, shape, fused=fused, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(answer.shape, generator=generator).half().to(answer)
    return [answer.detach(), *torch.autograd.grad(answer, given, grad)]


def hold_the_law(given: list[Tensor], shape: Shape, dtype: torch.dtype | None = None) -> None:
    """err(fused) <= 2 err(plain) + 1e-6, both in the same precision, against float64; answer and gradients."""
    exact = computed([tensor.double() for tensor in given], shape, fused=False)
    reference = computed(given, shape, fused=False, dtype=dtype)
    ours = computed(given, shape, fused=True, dtype=dtype)
    for name, truth, theirs, own in zip(NAMES, exact, reference, ours, strict=True):
        assert own.dtype is theirs.dtype, name
        assert own.shape == theirs.shape, name
        allowed = 2 * (theirs.double() - truth).abs().max() + 1e-6
        assert (own.double() - truth).abs().max() <= allowed, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("picture", PICTURES)
def test_triton(picture: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    hold_the_law(inputs_of(SHAPES["first"], picture, dtype, triton_device), SHAPES["first"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", ["second", "apart"])
def test_triton_on_other_shapes(shape: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    given = inputs_of(SHAPES[shape], "noise", dtype, triton_device)
    given[0] = given[0].contiguous(memory_format=torch.channels_last)
    hold_the_law(given, SHAPES[shape])


@pytest.mark.parametrize("windows", [64, 50])  # what one step takes, and what it does not
def test_parts_of_the_batch(windows: int, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole parts of windows and one that is not, summed for the parameters' gradients."""
    monkeypatch.setattr("t2t_vit.ops.split_norm_linear_triton.PART_WINDOWS", windows)
    shape = Shape((36, 1, 4, 3), Window(3, 2, 1), 5)
    hold_the_law(inputs_of(shape, "noise", torch.float32, triton_device), shape)


@pytest.mark.gpu
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_in_bfloat16(shape: str, picture: str) -> None:
    hold_the_law(inputs_of(SHAPES[shape], picture, torch.bfloat16, torch.device("cuda")), SHAPES[shape])


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_on_the_networks_own_shapes(batch: int, dtype: torch.dtype) -> None:
    for channels, size, window in ((3, 64, Window(7, 4, 2)), (64, 16, Window(3, 2, 1))):
        shape = Shape((batch, channels, size, size), window, 192)
        hold_the_law(inputs_of(shape, "noise", dtype, torch.device("cuda")), shape)


@pytest.mark.gpu
def test_places_beyond_32_bits() -> None:
    """4000 x 3136 x 192 numbers: the last image's are those of the image alone."""
    shape = Shape((1, 3, 224, 224), Window(7, 4, 2), 192)
    image, *given = inputs_of(shape, "noise", torch.bfloat16, torch.device("cuda"))
    images = torch.zeros(4000, 3, 224, 224, dtype=torch.bfloat16, device="cuda")
    images[-1] = image[0]
    with torch.no_grad():
        alone, together = (answer_of([each, *given], shape, fused=True) for each in (image, images))
        assert torch.equal(together[-1:], alone)


def test_a_product_in_half_of_a_map_in_float32(triton_device: torch.device) -> None:
    hold_the_law(inputs_of(SHAPES["first"], "noise", torch.float32, triton_device), SHAPES["first"], torch.float16)


def test_the_product_is_in_autocasts_precision() -> None:
    features = torch.zeros(1)
    assert product_dtype(features) is torch.float32
    assert product_dtype(features.half()) is torch.float16
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(features) is torch.bfloat16
        assert product_dtype(features.double()) is torch.float64


def test_the_same_bits_at_every_run(triton_device: torch.device) -> None:
    given = inputs_of(SHAPES["first"], "noise", torch.float32, triton_device)
    for one, other in zip(*(computed(given, SHAPES["first"], fused=True) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_an_image_has_the_same_answer_alone_and_in_a_batch(triton_device: torch.device) -> None:
    features, *given = inputs_of(SHAPES["apart"], "noise", torch.float32, triton_device)
    together = answer_of([features, *given], SHAPES["apart"], fused=True)
    assert torch.equal(answer_of([features[3:4], *given], SHAPES["apart"], fused=True), together[3:4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_second_derivatives_are_the_plain_forms(dtype: torch.dtype, triton_device: torch.device) -> None:
    shape = SHAPES["apart"]
    found = []
    for fused in (True, False):
        given = [t.requires_grad_() for t in inputs_of(shape, "noise", torch.float32, triton_device)]
        answer = answer_of(given, shape, fused=fused, dtype=dtype)
        grads = torch.autograd.grad(answer.float().square().mean(), given, create_graph=True)
        found.append(torch.autograd.grad(sum(grad.square().sum() for grad in grads), given))
    for name, ours, plain in zip(NAMES[1:], *found, strict=True):
        assert plain.norm() > 0, name
        assert (ours - plain).norm() <= (1e-4 if dtype is torch.float32 else 2e-2) * plain.norm(), name


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


def test_the_windows_of_a_batch_are_never_made(triton_device: torch.device) -> None:
    shape = Shape((6, 3, 20, 20), Window(7, 4, 2), 8)
    given = inputs_of(shape, "noise", torch.float32, triton_device)
    unfolded = 6 * 5 * 5 * 147 * 4
    grad = torch.ones(6, 25, 8, device=triton_device)
    window = list(shape.window)
    with Largest() as seen:
        answer, *moments = fused_split_norm_linear._init_fn(*given, window, 1e-5, torch.float32)
        fused_backward._init_fn(grad, answer, *moments, *given, window, True)
    assert 0 < seen.bytes < unfolded / 2
    with Largest() as seen:
        split_norm_linear(*given, window, 1e-5, torch.float32)
    assert seen.bytes >= unfolded


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_torch_sees_the_operation(triton_device: torch.device) -> None:
    """Its schema, fake tensors, gradients and dynamic shapes under torch.compile's tracing."""
    shape = Shape((2, 2, 6, 5), Window(3, 2, 1), 7)
    given = [t.requires_grad_() for t in inputs_of(shape, "noise", torch.float32, triton_device)]
    torch.library.opcheck(fused_split_norm_linear, (*given, list(shape.window), 1e-5, torch.float32))


def test_what_needs_no_gradient_costs_none(triton_device: torch.device) -> None:
    features, *given = inputs_of(SHAPES["first"], "noise", torch.float32, triton_device)
    weights = [tensor.requires_grad_() for tensor in given[:3]]
    answer_of([features, *weights, given[3]], SHAPES["first"], fused=True).sum().backward()
    assert features.grad is None
    assert all(weight.grad is not None for weight in weights)
