"""The network gives the original's numbers: `tests/golden/README.md` says how these were made."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden import fill_by_formula, golden_case, golden_images, golden_names
from t2t_vit import create_model

TOLERANCE = 5e-6


@pytest.mark.parametrize("name", golden_names())
def test_golden(name: str) -> None:
    case = golden_case(name)
    model = create_model(case.arch, image_size=case.size).eval()
    fill_by_formula(model)
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == case.facts["state_dict"]
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == case.facts["params"]
    assert sum(parameter.numel() for parameter in model.parameters()) == case.facts["trainable"]

    seen: dict[str, Tensor] = {}
    t2t = model.tokens_to_token
    for key in case.tensors.keys() - {"logits"}:
        module = t2t if key == "tokens" else t2t.get_submodule(key)
        module.register_forward_hook(lambda _module, _inputs, output, key=key: seen.__setitem__(key, output))
    logits = model(golden_images(case.size, case.size, case.flat))
    loss = F.cross_entropy(logits, torch.tensor([3, 7]))
    loss.backward()

    assert (logits - case.tensors["logits"]).abs().max() < TOLERANCE
    for key, tokens in seen.items():
        expected = case.tensors[key]
        assert (tokens[:, : expected.shape[1]] - expected).abs().max() < TOLERANCE, key
    assert loss.item() == pytest.approx(case.facts["loss"], abs=TOLERANCE)
    norms = {key: parameter.grad.norm().item() for key, parameter in model.named_parameters()}
    assert norms == pytest.approx(case.facts["grad_norms"], rel=1e-3)


@pytest.mark.parametrize(("arch", "trainable"), [("t2t_vit_19", 38_638_315), ("t2t_vit_t_14", 21_082_347)])
def test_parameters_with_five_classes(arch: str, trainable: int) -> None:
    """The figures of the MindSpore model-zoo page."""
    model = create_model(arch, num_classes=5)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
