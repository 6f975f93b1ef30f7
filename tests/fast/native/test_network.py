"""The packed network at each level of the processor."""

from collections.abc import Callable

import pytest
import torch

from golden import fill_by_formula, golden_images
from t2t_vit import create_model
from t2t_vit.fast import native
from t2t_vit.fast.native.processor import LEVELS
from t2t_vit.fast.packing import pack


@pytest.mark.parametrize("level", [*LEVELS, "amx in software"])
@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14"])
def test_the_packed_network(
    level: str, arch: str, at_level: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    """float32 as the plain network; bfloat16 errs at most 3 times as much as autocast does, both against float32."""
    if level == "amx in software":
        request.getfixturevalue("amx_in_software")
    else:
        at_level(level)
    model = create_model(arch, image_size=96).eval()
    fill_by_formula(model)
    images = golden_images(96, 96, flat=False)
    with torch.inference_mode():
        exact = model(images)
        torch.testing.assert_close(pack(model)(images), exact, atol=5e-6, rtol=0)
        packed = pack(model, torch.bfloat16)(images).float()
        with torch.autocast("cpu", torch.bfloat16):
            usual = model(images).float()
    assert (packed - exact).abs().max() <= 3 * (usual - exact).abs().max() + 1e-6
    if level in ("none", "avx2", "avx512"):
        assert native.unavailable() == f"there are none for T2T_VIT_CPU={level}"
