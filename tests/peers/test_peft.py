"""Adapters of peft on our networks: they count with and without gradients, learn, and merge."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor

import t2t_vit
from t2t_vit import T2TViT, UserError

TARGETS = ["qkv", "fc1"]
LABELS = torch.tensor([0, 3, 4])


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules=TARGETS, lora_dropout=0.0, modules_to_save=["head"], **options)


def adapted(model: T2TViT, config: Any) -> Any:
    """The network with adapters that change its answer: as peft makes them, most change nothing yet."""
    wrapped = get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "head" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return wrapped


@pytest.mark.parametrize("config", [lora(), lora(use_dora=True)], ids=["lora", "dora"])
def test_adapters_count_in_every_mode(model: T2TViT, config: LoraConfig, images: Tensor) -> None:
    if not any(name.endswith(("attn.qkv", "fc1")) for name, _ in model.named_modules()):
        pytest.skip(f"{model.name} has no qkv and no fc1")
    before = model(images).detach()
    wrapped = adapted(model, config)
    with_gradients = wrapped(images)
    assert with_gradients.requires_grad
    assert (with_gradients - before).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(wrapped(images), with_gradients, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(wrapped(images), with_gradients.detach(), atol=1e-5, rtol=1e-5)
    with wrapped.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(wrapped(images), before, atol=1e-5, rtol=1e-5)


def test_what_is_learned_is_seen_without_gradients(small: T2TViT, images: Tensor) -> None:
    wrapped = get_peft_model(small, lora()).train()
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    assert all("lora_" in name or "head" in name for name, p in wrapped.named_parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(20):
        with torch.no_grad():
            unwatched = F.cross_entropy(wrapped(images), LABELS)
        loss = F.cross_entropy(wrapped(images), LABELS)
        torch.testing.assert_close(unwatched, loss.detach(), atol=1e-5, rtol=1e-5)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


def test_ia3(small: T2TViT, images: Tensor) -> None:
    before = small(images).detach()
    wrapped = adapted(small, IA3Config(target_modules=TARGETS, feedforward_modules=["fc1"]))
    expected = wrapped(images).detach()
    assert (expected - before).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(wrapped(images), expected, atol=1e-5, rtol=1e-5)


def test_merged_adapters_are_a_plain_network_again(small: T2TViT, images: Tensor, tmp_path: Path) -> None:
    wrapped = adapted(small, lora())
    expected = wrapped(images).detach()
    with pytest.raises(UserError, match=r"attn\.qkv is a Linear instead of a Linear|attn\.qkv is a Linear"):
        wrapped.get_base_model().save_pretrained(tmp_path / "adapted")
    merged = wrapped.merge_and_unload()
    assert type(merged) is T2TViT
    torch.testing.assert_close(merged(images), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = t2t_vit.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(again(images), expected, atol=1e-4, rtol=1e-4)


def test_adapters_are_saved_and_loaded_by_peft(small: T2TViT, images: Tensor, tmp_path: Path) -> None:
    plain = copy.deepcopy(small)
    wrapped = adapted(small, lora())
    wrapped.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    torch.testing.assert_close(again(images), wrapped(images))
