"""Triton's kernels: in its interpreter, whose bfloat16 products are wrong, or on a GPU where there is one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import t2t_vit.ops.performer_triton as module
from performer_law import Case, check_law
from t2t_vit.ops.performer import performer_attention
from t2t_vit.ops.performer_triton import performer_triton, performer_triton_backward


def fused(queries: Tensor, keys: Tensor, values: Tensor, features: Tensor) -> Tensor:
    return performer_triton(queries, keys, values, features)[0]


CASES = [
    Case(1, 784, 32, 16, 32),
    Case(2, 197, dtype=torch.float16),
    Case(3, 49, length=1.0),
    Case(2, 7, length=30.0),
    Case(1, 1, dtype=torch.float16),
    Case(2, 50, length=0.0),
    Case(2, 50, flat=True),
    Case(1, 197, flat=True, length=2.0, dtype=torch.float16),
    Case(2, 33, length=1000.0),
    Case(60, 3, 16, 8, 16, length=1.0),
    Case(1, 70, 24, 10, 20, dtype=torch.float16),
    Case(1, 40, 128, 128, 128, length=0.2),
]
# What takes too long in the interpreter, and what it computes wrongly.
LARGE = [(1, 3136), (1, 9216), (64, 3136), (1000, 49), (3, 197), (1, 1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case, triton_device: torch.device) -> None:
    check_law(replace(case, device=triton_device.type), fused, draws=2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("flat", [False, True], ids=["noise", "flat"])
def test_law_on_a_gpu(flat: bool, length: float, dtype: torch.dtype) -> None:
    for batch, tokens in LARGE:
        check_law(Case(batch, tokens, length=length, flat=flat, dtype=dtype, device="cuda"), fused)


def test_splits_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch, triton_device: torch.device) -> None:
    """The first tokens are the longest, with exponents far below the last ones', so that parts have to be weighed."""
    packed, features, _ = Case(2, 150, device=triton_device.type).draw()
    packed = packed * torch.linspace(2.0, 0.1, 150, device=triton_device).view(1, -1, 1)
    k, q, v = packed.chunk(3, dim=-1)
    answers = []
    for processors in (1, 2, 100):
        monkeypatch.setattr(module, "_processors", lambda _, processors=processors: processors)
        answers.append(fused(q, k, v, features))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(answers[0], answers[2], atol=1e-6, rtol=1e-5)
    assert torch.equal(answers[2], fused(q, k, v, features))


@pytest.mark.parametrize("flat", [False, True], ids=["noise", "flat"])
def test_bfloat16_by_parts(flat: bool, triton_device: torch.device) -> None:
    """Products of bfloat16 by parts are those of the same numbers in float32, as sums that stay in float32 show.

    The interpreter cuts off what does not fit into bfloat16, so answers may differ by a whole last place.
    """
    packed, features, grad = Case(2, 70, flat=flat, dtype=torch.bfloat16, device=triton_device.type).draw()
    found, wanted = [], []
    for outputs, dtype in ((found, torch.bfloat16), (wanted, torch.float32)):
        k, q, v = packed.to(dtype).chunk(3, dim=-1)
        answers, *sums = performer_triton(q, k, v, features)
        outputs += [*sums, answers, *performer_triton_backward(grad.to(dtype), q, k, v, features, *sums)]
    for ours, exact in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-6, rtol=2e-6)
    for ours, exact in zip(found[3:], wanted[3:], strict=True):
        torch.testing.assert_close(ours.float(), exact, atol=1e-4, rtol=2.0**-7)


# opcheck's own look at gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_is_a_good_operator(triton_device: torch.device) -> None:
    """Schema, fakes and registration of gradients; inputs are not changed."""
    packed, features, grads = Case(2, 5, 16, 8, 16, device=triton_device.type).draw()
    k, q, v = (part.contiguous().requires_grad_() for part in packed.chunk(3, dim=-1))
    torch.library.opcheck(performer_triton, (q, k, v, features))
    k, q, v = packed.chunk(3, dim=-1)
    torch.library.opcheck(performer_triton, (q, k, v, features))
    kept = performer_triton(q, k, v, features)[1:]
    torch.library.opcheck(performer_triton_backward, (grads, q, k, v, features, *kept))


def test_one_node_in_a_compiled_graph(triton_device: torch.device) -> None:
    """With its gradient, and for a batch of any size."""

    def attend(packed: Tensor) -> Tensor:
        keys, queries, values = packed.chunk(3, dim=-1)
        return fused(queries, keys, values, features)

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        packed, features, grads = Case(batch, 5, 16, 8, 16, device=triton_device.type).draw()
        found = []
        for function in (compiled, attend):
            leaf = packed.clone().requires_grad_()
            answers = function(leaf)
            answers.backward(grads)
            found.append((answers, leaf.grad))
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_second_derivatives_are_the_plain_forms(dtype: torch.dtype, triton_device: torch.device) -> None:
    packed, features, _ = Case(2, 5, 16, 8, 16, dtype=dtype, device=triton_device.type).draw()
    found = []
    for form in (fused, performer_attention):
        leaf = packed.clone().requires_grad_()
        keys, queries, values = leaf.chunk(3, dim=-1)
        (grad,) = torch.autograd.grad(
            form(queries, keys, values, features).float().square().sum(), leaf, create_graph=True
        )
        found.append(torch.autograd.grad(grad.float().square().sum(), leaf)[0].float())
    assert found[1].norm() > 1
    assert (found[0] - found[1]).norm() < (1e-4 if dtype is torch.float32 else 2e-2) * found[1].norm()
