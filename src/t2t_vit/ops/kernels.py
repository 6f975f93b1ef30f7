"""Implementations of one operation side by side, and how one of them is chosen."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from t2t_vit.errors import UserError

Kernels = Literal["auto", "reference", "cpu", "native", "triton"]
NAMES: tuple[str, ...] = get_args(Kernels)
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def always(inputs: Tensor) -> bool:
    """For rows that `auto` takes wherever they are available."""
    return True


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operation; an operation's ways are a tuple of these, the one `auto` likes best first.

    Attributes:
        name: one of `NAMES` but "auto".
        unavailable: why it cannot compute this tensor's answer, as the end of a sentence; None: it can.
        run: the operation; all rows of one operation take the same arguments.
        preferred: whether `auto` may take it for this tensor, where it is available.
    """

    name: str
    unavailable: Callable[[Tensor], str | None]
    run: Callable[..., Any]
    preferred: Callable[[Tensor], bool] = always


def choose(asked: str, rows: Sequence[Implementation], inputs: Tensor) -> Implementation:
    """The row of the name `asked`, or with "auto" the first that is available and preferred.

    While a graph is written into a file or a function is transformed, and where only shapes are computed, the
    reference is taken whatever was asked for: only plain operations can be written, transformed and counted.

    Raises:
        UserError: no such name, or its row cannot compute `inputs`; only "auto" takes another one.
    """
    check_name(asked)
    if exporting() or transforming() or inputs.device.type == "meta":
        asked = "reference"
    if asked != "auto":
        return _by_name(asked, rows, inputs)
    return next(row for row in rows if row.preferred(inputs) and row.unavailable(inputs) is None)


def check_name(asked: str) -> None:
    """Raises UserError where there are no kernels of that name."""
    if asked not in NAMES:
        raise UserError(f"there are no kernels '{asked}'; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}")


def _by_name(asked: str, rows: Sequence[Implementation], inputs: Tensor) -> Implementation:
    for row in rows:
        if row.name == asked:
            reason = row.unavailable(inputs)
            if reason is not None:
                raise cannot_run(asked, reason)
            return row
    # "native" ones compute the whole network for inference, so it is asked for them before its operations are.
    where = "they are for inference on a CPU" if asked == "native" else "this operation has none of them"
    raise cannot_run(asked, where)


def cannot_run(asked: str, reason: str) -> UserError:
    """What the user is told of kernels that were asked for by name; `reason` is the end of a sentence."""
    return UserError(f"kernels '{asked}' cannot run: {reason}; 'auto' takes the fastest that can")


def exporting() -> bool:
    """Whether a graph is being traced for a file: by torch.export, for ONNX or by torch.jit."""
    # torch.compile of torch 2.11 takes torch.compiler.is_exporting() for true and cannot follow torch._C._is_tracing().
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.compiler._is_exporting_flag or torch.onnx.is_in_onnx_export() or tracing


def transforming() -> bool:
    """Whether torch.func (vmap, grad, jvp) transforms what is computed."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def watched(inputs: Tensor) -> bool:
    """Whether somebody follows the operations: a compiler, an exporter, a counter, a transformation of functions."""
    return (
        type(inputs) is not Tensor
        or torch.compiler.is_compiling()
        or exporting()
        or _get_current_dispatch_mode() is not None
        or transforming()
        or forward_ad._current_level >= 0
    )


def available(inputs: Tensor) -> str | None:
    """For a reference: it can compute anything."""
    return None


def on_cuda(inputs: Tensor) -> bool:
    """For rows of Triton kernels: `auto` never takes them in the interpreter."""
    return inputs.is_cuda


def off_cpu(inputs: Tensor) -> str | None:
    """Why a form for the CPU cannot take these inputs."""
    return None if inputs.device.type == "cpu" else f"it is for the CPU, and the tensor is on {inputs.device.type}"


def off_triton(inputs: Tensor) -> str | None:
    """Why a Triton kernel cannot take these inputs; TRITON_INTERPRET=1 lets it run on the CPU, slowly, for tests."""
    if inputs.dtype not in TRITON_DTYPES:
        return f"Triton's kernels compute float32, float16 and bfloat16, not {str(inputs.dtype).removeprefix('torch.')}"
    if not has_triton():
        return "triton is not installed; it comes with PyTorch for CUDA"
    if inputs.device.type == "cuda" or (inputs.device.type == "cpu" and interpreting()):
        return None
    if not torch.cuda.is_available():
        return "Triton's kernels need a CUDA device, and there is none"
    return f"Triton's kernels need a tensor on a CUDA device, and this one is on {inputs.device.type}"


def has_triton() -> bool:
    # Asked for a tensor on a GPU or by name only, where the import has to happen anyway; torch.compile can follow it.
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"
