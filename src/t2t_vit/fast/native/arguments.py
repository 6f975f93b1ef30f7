"""Tensors and numbers as the compiled kernels take them."""

import ctypes

import torch
from torch import Tensor

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where the tensor's first number is, null without one; the tensor has to outlive the call.

    Raises:
        RuntimeError: a tensor without memory, such as a fake one: a kernel would read at null.
    """
    if tensor is not None and tensor.numel() and not tensor.data_ptr():
        raise RuntimeError("a kernel was called with a tensor that has no memory")
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def check(fits: bool, operation: str) -> None:
    """Raises RuntimeError where tensors do not fit: a kernel would read what is not theirs."""
    if not fits:
        raise RuntimeError(f"{operation}: the shapes or dtypes of its tensors do not fit each other")


def whole(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """Whole numbers of 64 bits in a row."""
    return (ctypes.c_int64 * len(values))(*values)


def threads() -> ctypes.c_int:
    """As many as torch uses."""
    return ctypes.c_int(torch.get_num_threads())
