"""Model FLOP utilisation: the arithmetic that training needs over what the device could do (PaLM, arXiv 2204.02311)."""

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Peak rates of one device in TFLOP/s: matrix products in 16 bits with 32-bit sums, in TF32, and in float32. They are
# those without sparsity, as the makers' data sheets give them; some sheets print only the rate with sparsity, of which
# this is the half. A device that is not here has no MFU: a guess would be worse than none.
PEAKS: tuple[tuple[str, float, float, float], ...] = (
    (r"NVIDIA B200", 2250, 1125, 75),  # HGX B200, data sheet 2024: 8 GPUs
    (r"NVIDIA H200", 989, 494, 67),  # H200 data sheet 2024, SXM
    (r"NVIDIA H200 NVL", 835, 417, 60),
    (r"NVIDIA GH200( \d+GB)?", 989, 494, 67),  # Grace Hopper data sheet 2023
    (r"NVIDIA H100 (80GB HBM3|SXM5.*|64GB HBM2)", 989, 494, 67),  # H100 data sheet 2023, SXM
    (r"NVIDIA H100 NVL", 835, 417, 60),
    (r"NVIDIA H100 PCIe", 756, 378, 51),
    (r"(NVIDIA )?A100-(SXM4|PCIE|PG5.*)-\d+GB|NVIDIA A100 80GB PCIe", 312, 156, 19.5),  # A100 data sheet 2021
    (r"NVIDIA A30", 165, 82, 10.3),  # data sheet 2021
    (r"NVIDIA A40", 149.7, 74.8, 37.4),  # data sheet 2021
    (r"NVIDIA A10", 125, 62.5, 31.2),  # data sheet 2021
    (r"NVIDIA L4", 121, 60, 30.3),  # data sheet 2023
    (r"NVIDIA L40", 181, 90.5, 90.5),  # data sheet 2022
    (r"NVIDIA L40S", 362, 183, 91.6),  # data sheet 2023
    (r"NVIDIA GeForce RTX 3090", 71, 35.6, 35.6),  # GA102 white paper, appendix
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),  # Ada white paper, appendix
    (r"NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8),  # Blackwell RTX white paper, appendix
    (r"AMD Instinct MI300X.*", 1307.4, 653.7, 163.4),  # data sheet 2023
)


@dataclass(frozen=True)
class Utilisation:
    """What training one image takes, in FLOP, and what one device can do, in FLOP/s."""

    flops_per_image: int
    peak: float

    def of(self, images_per_second: float) -> float:
        """MFU of one device that trains so many images a second, in [0, 1]."""
        return images_per_second * self.flops_per_image / self.peak


def utilisation(
    model: nn.Module, image: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Utilisation | None:
    """The utilisation of `device` by `model`, which multiplies in `dtype`; None where the peak is not known.

    Args:
        image: (C, H, W) of one image.
    """
    peak = peak_of(device, dtype)
    return None if peak is None else Utilisation(training_flops(model, image), peak)


def training_flops(model: nn.Module, image: tuple[int, ...]) -> int:
    """FLOP of the matrix products of one forward and backward pass over one image (C, H, W), 2 a multiply-add.

    Counted on shapes alone. What is not trained has no gradient to count; what is computed twice to save memory
    counts once.
    """
    copy = deepcopy(model).to("meta").train()
    counter: Any = FlopCounterMode(display=False)
    with counter:
        copy(torch.empty(1, *image, device="meta")).sum().backward()
    return int(counter.get_total_flops())


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak rate of `device` for matrix products in `dtype`, in FLOP/s; None where it is not known.

    A processor's is never known: it depends on clocks that depend on what else runs.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for pattern, half, tf32, single in PEAKS:
        if re.fullmatch(pattern, name):
            return 1e12 * (half if dtype.itemsize == 2 else tf32 if _multiplies_tf32() else single)
    return None


def _multiplies_tf32() -> bool:
    return torch.get_float32_matmul_precision() != "highest"
