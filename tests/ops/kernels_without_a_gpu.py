"""Compiles each Triton kernel that training starts, for a GPU that is not there; prints name and shared memory a line.

    python kernels_without_a_gpu.py CAPABILITY DTYPE FLOAT32_PRECISION

With the settings that a GPU gets: only what asks the driver is replaced.
Triton's interpreter, in which the other tests run, takes much that its compiler refuses.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from t2t_vit import create_model, fuse
from t2t_vit.fast import fusing
from t2t_vit.ops import performer_triton

CAPABILITY, DTYPE = int(sys.argv[1]), getattr(torch, sys.argv[2])
PROCESSORS = {
    80: 108,
    86: 82,
    89: 128,
    90: 132,
    100: 148,
    120: 170,
}  # of an A100, RTX 3090 and 4090, H100, B200, RTX 5090


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
setattr(fusing, "why_not_fusible", lambda _: None)  # noqa: B010
setattr(performer_triton, "_processors", lambda _: PROCESSORS[CAPABILITY])  # noqa: B010
torch.set_float32_matmul_precision(sys.argv[3])
for name in ("t2t_vit_14", "t2t_vit_t_14"):
    model = fuse(create_model(name).train())
    with torch.autocast("cpu", DTYPE, enabled=DTYPE is not torch.float32):
        tokens = model.tokens_to_token(torch.randn(8, 3, 224, 224))
    tokens.float().sum().backward()
