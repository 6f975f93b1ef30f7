"""Compiles each Triton kernel that training starts, for a GPU that is not there; prints name and shared memory a line.

    python kernels_without_a_gpu.py CAPABILITY DTYPE

Triton's interpreter, in which the other tests run, takes much that its compiler refuses.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from t2t_vit import create_model
from t2t_vit.ops import kernels, performer_triton

CAPABILITY, DTYPE = int(sys.argv[1]), getattr(torch, sys.argv[2])
PROCESSORS = {80: 108, 90: 132}  # of an A100 and an H100


class Absent:
    """A GPU that says what it is."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


start: Any = JITFunction.run


def compile_only(kernel: Any, *inputs: Any, **settings: Any) -> None:
    compiled = start(kernel, *inputs, **{**settings, "warmup": True})
    sys.stdout.write(f"{kernel.__name__} {compiled.metadata.shared}\n")


driver.set_active(Absent())
setattr(JITFunction, "run", compile_only)  # noqa: B010
setattr(kernels, "interpreting", lambda: True)  # noqa: B010
setattr(performer_triton, "_processors", lambda _: PROCESSORS[CAPABILITY])  # noqa: B010
model = create_model("t2t_vit_7", kernels="triton").train()
with torch.autocast("cpu", DTYPE):
    tokens = model.tokens_to_token(torch.randn(1, 3, 224, 224))
tokens.float().sum().backward()
