"""Compiling the network for the training step."""

import logging
import os
from collections.abc import Callable
from shutil import which

import torch
from torch import nn

from t2t_vit.errors import first_line

COMPILERS = ("cc", "gcc", "g++", "clang", "clang++")


def compile_for_training(
    model: nn.Module, device: torch.device, note: Callable[[str], None], sizes: int = 1
) -> nn.Module:
    """`model` as torch.compile runs it, or `model` itself where it cannot be compiled, which `note` reports.

    Of images of several `sizes` each gets a graph of its own when it first comes: one graph for all of them would
    compute with sizes that the compiler does not know.

    The result shares its weights with `model`; take state dicts from `model`, whose keys stay as they are.
    """
    reason = obstacle_to_compiling(device)
    if reason:
        note(f"pynative_mode: False asks for a compiled graph, but {reason}; running eagerly")
        return model
    if sizes > 1:
        note(
            f"compiling the network for training, {sizes} times, once per image size; the first step with each size "
            "may take a few minutes"
        )
        return torch.compile(model, dynamic=False)  # type: ignore[return-value]
    note("compiling the network for training; the first step may take a few minutes")
    return torch.compile(model)  # type: ignore[return-value]


def obstacle_to_compiling(device: torch.device) -> str:
    """Why torch.compile does not work on `device`, or nothing; it tries with a small function."""
    if not any(which(name) for name in COMPILERS):
        return f"there is no C compiler ({', '.join(COMPILERS)})"
    if device.type != "cuda":
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA even so
    # Inductor fuses anyway, but its cache asks Triton 3.9 for a default, and that warns where nobody has set one.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except Exception as error:  # whatever the compiler, its headers or its libraries lack
        return f"compiling fails ({first_line(error)[:200]})"
    return ""


def _probe(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2 + 1
