"""Weights that torchao quantised: they count with and without gradients, and are not saved as plain ones."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from t2t_vit import T2TViT, UserError

# The largest error, in deviations of the logits, is twice the largest of four seeds of the 22 blocks of t2t_vit_dense,
# through which rounding adds up most: 0.11 where weights are rounded, 0.20 where activations are, too. A wrong scale
# gives 1, weights that were not used 0.
CONFIGS = [(Int8WeightOnlyConfig(), 0.22), (Int8DynamicActivationInt8WeightConfig(), 0.4)]


@pytest.mark.parametrize(("config", "largest"), CONFIGS, ids=["weights", "dynamic"])
def test_int8_is_near_and_the_same_in_every_mode(model: T2TViT, config: object, largest: float, images: Tensor) -> None:
    exact, quantised = model(images).detach(), copy.deepcopy(model)
    quantize_(quantised, config)
    rounded = quantised(images).detach()
    spread = exact.std()
    assert 1e-5 * spread < (rounded - exact).abs().max() < largest * spread
    with torch.no_grad():
        torch.testing.assert_close(quantised(images), rounded, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(quantised(images), rounded, atol=1e-5, rtol=1e-5)


def test_quantised_weights_are_not_saved_as_plain_ones(small: T2TViT, tmp_path: Path) -> None:
    quantize_(small, Int8WeightOnlyConfig())
    with pytest.raises(UserError, match=r"weight is a Int8Tensor"):
        small.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_was_left_out_keeps_its_numbers(small: T2TViT) -> None:
    head = small.head.weight.clone()
    quantize_(
        small,
        Int8WeightOnlyConfig(),
        filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and name != "head",
    )
    assert torch.equal(small.head.weight, head)
    assert type(small.blocks[0].attn.qkv.weight.data) is not Tensor
