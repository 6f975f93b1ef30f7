"""Forms of softmax attention in bfloat16 on a CPU: time of both passes on one thread, and errors against float64.

    python benchmarks/attention.py

Shapes are those of a layer of t2t_vit_14 at batch 8. Errors are the largest of any number, of the answer and of the
gradients of queries, keys and values, for queries and keys of size 3.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPE, SCALE = (8, 6, 197, 64), 64**-0.5
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=SCALE)


def fused_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return fused(q.float(), k.float(), v.float()).to(v.dtype)


def authors(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return ((q @ k.transpose(-2, -1)) * SCALE).softmax(-1) @ v


def scores_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q.float() * SCALE) @ k.float().transpose(-2, -1)).softmax(-1).to(v.dtype) @ v


def seconds(form: Form, repeats: int = 15) -> float:
    """The median of a forward and a backward pass, in processor time."""
    inputs = [torch.randn(SHAPE).bfloat16().requires_grad_() for _ in range(3)]
    slope, found = torch.randn(SHAPE).bfloat16(), []
    for _ in range(repeats):
        begin = time.process_time()
        torch.autograd.grad(form(*inputs), inputs, slope)
        found.append(time.process_time() - begin)
    return sorted(found)[repeats // 2]


def errors(form: Form) -> list[float]:
    """Of the answer and of the gradients of queries, keys and values."""
    torch.manual_seed(1)
    given = [(size * torch.randn(SHAPE)).bfloat16() for size in (3, 3, 1)]
    slope, found = torch.randn(SHAPE).bfloat16(), []
    for inputs, each in (([t.double() for t in given], fused), (given, form)):
        leaves = [tensor.requires_grad_() for tensor in inputs]
        answer = each(*leaves)
        found.append([answer.detach(), *torch.autograd.grad(answer, leaves, slope.to(answer.dtype))])
    return [(ours.double() - exact).abs().max().item() for exact, ours in zip(*found, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}")
    for form in (fused, fused_in_float32, authors, scores_in_float32):
        shown = ", ".join(f"{error:.3f}" for error in errors(form))
        print(f"{form.__name__:<18} {1e3 * seconds(form):5.1f} ms, errors {shown}")
