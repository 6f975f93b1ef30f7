"""Stages are the network cut into pieces: their work adds up to the whole's, and each does what it does in there."""

import pytest
import torch
from torch import Tensor

from t2t_vit import create_model
from t2t_vit.bench.network import flops_of, mapped, stages_of, tensors_in
from t2t_vit.model import T2TViT
from t2t_vit.model.cost import count_cost
from t2t_vit.training.measurements import training_flops

STAGES = ["split0", "attention1", "split1", "attention2", "split2", "project", "blocks", "head"]
ARCHS = ("t2t_vit_quickstart", "t2t_vit_t_14", "t2t_vit_14_resnext", "t2t_vit_dense")


def quickstart() -> T2TViT:
    torch.manual_seed(0)
    return create_model("t2t_vit_quickstart", image_size=28, in_chans=1, num_classes=7, performer_drop=0.0)


def test_names_are_the_modules_own():
    stages = stages_of(quickstart(), torch.randn(2, 1, 28, 28))
    assert [stage.name for stage in stages] == STAGES


@pytest.mark.parametrize("name", ARCHS)
def test_flops_add_up_to_those_of_the_table_of_costs(name: str):
    size = 28 if name == "t2t_vit_quickstart" else 64
    model = create_model(name, image_size=size, num_classes=5)
    found = flops_of(model)
    forward = sum(each.forward for each in found.values())
    assert forward == 2 * count_cost(name, size, 5).macs
    assert forward + sum(each.backward for each in found.values()) == training_flops(model, (3, size, size))


def test_what_is_frozen_has_no_backward_pass():
    model = quickstart()
    model.freeze("backbone")
    found = flops_of(model)
    assert found["blocks"].forward > 0
    assert [name for name, flops in found.items() if flops.backward] == ["head"]


def test_the_last_stage_gives_the_networks_logits():
    model = quickstart().eval()
    images = torch.randn(3, 1, 28, 28)
    head = stages_of(model, images)[-1]
    torch.testing.assert_close(head.run(*head.inputs), model(images), rtol=0, atol=0)


def test_a_stage_alone_makes_the_gradients_of_the_whole():
    model = quickstart().eval()
    images = torch.randn(3, 1, 28, 28)
    head = stages_of(model, images)[-1]
    run = head.backward(head.run(*head.inputs))
    assert run is not None
    alone = dict(zip([id(each) for each in head.sources], run(), strict=True))
    model(images).sum().backward()
    for parameter in (model.head.weight, model.norm.weight):
        torch.testing.assert_close(alone[id(parameter)], parameter.grad)


def test_a_stage_has_the_input_that_it_gets_in_the_network():
    model = create_model("t2t_vit_t_14", image_size=64, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    stages = {stage.name: stage for stage in stages_of(model, images)}
    parts = model.tokens_to_token
    (windows,) = stages["attention1"].inputs
    assert torch.equal(stages["split0"].inputs[0], images)
    assert torch.equal(windows, parts.split0(images))
    _, coarse, tokens = parts.stages(images)
    assert torch.equal(stages["split2"].inputs[0], coarse)
    assert torch.equal(stages["project"].run(*stages["project"].inputs), tokens)


def test_hooks_are_gone_afterwards():
    model = quickstart()
    stages_of(model, torch.randn(1, 1, 28, 28))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_tensors_are_found_wherever_they_lie():
    windows = torch.Size((1, 2))
    value = (torch.zeros(1), [torch.ones(2), "text"], windows, 3)
    assert [len(tensor) for tensor in tensors_in(value)] == [1, 2]
    doubled = mapped(value, lambda tensor: 2 * tensor)
    assert isinstance(doubled[1][0], Tensor)
    assert doubled[1][0].tolist() == [2.0, 2.0]
    assert doubled[2:] == (windows, 3)
