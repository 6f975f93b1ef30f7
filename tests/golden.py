"""The golden cases: weights and images from a formula, and what the authors' network makes of them.

`tests/golden/README.md` states the formula.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    name: str
    arch: str
    size: int
    flat: bool
    facts: dict
    tensors: dict[str, Tensor]


def golden_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def golden_case(name: str) -> GoldenCase:
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    arch, size = name.removesuffix("_flat").rsplit("_", 1)
    tensors = load_file(FOLDER / f"{name}.safetensors")
    return GoldenCase(name, arch, int(size), bool(facts.get("flat")), facts, tensors)


def formula(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


@torch.no_grad()
def fill_by_formula(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if name != "pos_embed":
            tensor.copy_(_weight(name, tuple(tensor.shape)))


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    z = formula(name, shape)
    if name.endswith(".w"):
        return z
    if name == "cls_token":
        return 0.5 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith(".weight") else 0.1 * z
    return z * 0.5 / float(np.sqrt(np.prod(shape[1:])))


def golden_images(height: int, width: int, flat: bool = False, channels: int = 3) -> Tensor:
    images = formula(f"images-{height}x{width}", (2, channels, height, width))
    if flat:
        images[:, :, :, : width // 2] = -1.0
        images[:, :, height // 2 :, :] = 2.5
    return images
