"""The whole network on a CUDA device: what its kernels, torch.compile and memory promise there."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from t2t_vit import create_model, fuse

pytestmark = pytest.mark.gpu


def step(model: nn.Module, images: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Logits of a forward pass under autocast, gradients left in the parameters."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
        logits = model(images)
    logits.float().square().mean().backward()
    return logits.detach().float()


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None])


def pair(name: str, size: int) -> tuple[nn.Module, nn.Module]:
    """The same network fused and plain, and nothing that is drawn at random."""
    fused, plain = (create_model(name, image_size=size, performer_drop=0.0).cuda().train() for _ in range(2))
    plain.load_state_dict(fused.state_dict())
    return fuse(fused), plain


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
def test_triton_against_the_reference(name: str) -> None:
    images = torch.randn(3, 3, 96, 96, device="cuda")
    triton, reference = pair(name, 96)
    torch.testing.assert_close(
        step(triton, images, torch.float32), step(reference, images, torch.float32), atol=1e-4, rtol=1e-3
    )
    wanted = gradients(reference)
    assert (gradients(triton) - wanted).norm() < 1e-3 * wanted.norm()


def test_bfloat16_is_as_close_as_the_reference() -> None:
    images = torch.randn(8, 3, 224, 224, device="cuda")
    triton, reference = pair("t2t_vit_14", 224)
    exact = step(reference, images, torch.float32)
    error = (step(triton, images) - exact).abs().max()
    assert error <= 2 * (step(reference, images) - exact).abs().max() + 1e-6


# In full on purpose.
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_compiled_is_one_graph_for_all_batches() -> None:
    """The second size makes the batch a symbol; after that no size is compiled for."""
    torch._dynamo.reset()
    counters.clear()
    model, _ = pair("t2t_vit_7", 96)
    compiled = torch.compile(model, fullgraph=True)
    for batch in (8, 5, 3, 7):
        images = torch.randn(batch, 3, 96, 96, device="cuda")
        torch.testing.assert_close(
            step(compiled, images, torch.float32), step(model, images, torch.float32), atol=1e-4, rtol=1e-3
        )
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_memory_of_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 0.6 of the authors' form, which stores windows, exponentials and attention weights."""
    images = torch.randn(64, 3, 224, 224, device="cuda")
    ours = peak(images, fused=True)
    with monkeypatch.context() as patch:
        patch.setattr("t2t_vit.ops.attention.attention", plain_attention)
        authors = peak(images, fused=False)
    assert ours <= 0.6 * authors, f"{ours / authors:.2f}: {ours >> 20} of {authors >> 20} MiB"


def peak(images: Tensor, *, fused: bool) -> int:
    """Bytes at the most while a t2t_vit_14 takes two steps, its weights included."""
    model = create_model("t2t_vit_14").cuda().train()
    if fused:
        fuse(model)
    step(model, images)
    torch.cuda.reset_peak_memory_stats()
    step(model, images)
    return torch.cuda.max_memory_allocated()


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    return (queries @ keys.transpose(-2, -1) * scale).softmax(dim=-1) @ values
