"""What every launch of a Triton kernel says."""

from typing import Any

import pytest
import torch

from t2t_vit.ops import performer_triton, performer_triton_kernels, split_norm_linear_jit
from t2t_vit.ops.split_norm_linear import fused_split_norm_linear


class Watched:
    """A kernel that keeps what it is started with."""

    def __init__(self, kernel: Any, settings: list[dict[str, Any]]) -> None:
        self.kernel, self.settings = kernel, settings

    def __getitem__(self, grid: Any) -> Any:
        def start(*inputs: Any, **settings: Any) -> None:
            self.settings.append(settings)
            self.kernel[grid](*inputs, **settings)

        return start


def test_every_launch_says_that_products_and_sums_are_fused(
    monkeypatch: pytest.MonkeyPatch, triton_device: torch.device
) -> None:
    """Triton 3.9 warns where one leaves it open, and later ones fuse no more."""
    started: dict[str, list[dict[str, Any]]] = {}
    for module in (performer_triton_kernels, split_norm_linear_jit):
        for name, kernel in vars(module).copy().items():
            if hasattr(kernel, "arg_names") and not name.startswith("_"):
                monkeypatch.setattr(module, name, Watched(kernel, started.setdefault(name, [])))
    monkeypatch.setattr(performer_triton, "_processors", lambda _: 2)
    drawn = {"device": triton_device, "requires_grad": True}
    tokens = torch.randn(1, 150, 48, **drawn)
    features = torch.randn(8, 16, device=triton_device)
    performer_triton.performer_triton(*tokens.chunk(3, dim=-1), features)[0].sum().backward()
    parameters = (torch.randn(size, **drawn) for size in ((27,), (27,), (16, 27), (16,)))
    images = torch.randn(1, 3, 8, 8, **drawn)
    fused_split_norm_linear(images, *parameters, [3, 2, 1], 1e-5, torch.float32)[0].sum().backward()
    assert len(started) >= 8
    for name, launches in started.items():
        assert launches, name
        assert all(settings["enable_fp_fusion"] for settings in launches), name
