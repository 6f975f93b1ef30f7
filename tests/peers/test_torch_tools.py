"""torch's own tools on our networks: torch.func, copies, pickles, the compiler."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2t_vit import T2TViT, create_model

LABELS = torch.tensor([0, 3, 4])


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def state_of(model: T2TViT) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_functional_call_answers_by_what_it_is_given(model: T2TViT, images: Tensor) -> None:
    """One parameter of each kind at a time, so that none of them is taken from the module."""
    state, before = state_of(model), model(images).detach()
    groups: dict[str, str] = {}
    for name in state:
        groups.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), name)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name in groups.values():
            tensor = changed.state_dict()[name]
            tensor.add_(torch.randn_like(tensor) * 0.5)
            answer = functional_call(model, {**state, name: tensor}, (images,))
            close(answer, changed(images))
            assert (answer - before).abs().max() > 1e-6, name
            tensor.copy_(state[name])
        close(model(images), before)


def test_vmap_over_images(model: T2TViT, images: Tensor) -> None:
    with torch.no_grad():
        each = vmap(lambda image: model(image[None])[0])(images)
    close(each, model(images).detach())


def test_gradients_of_each_sample(model: T2TViT, images: Tensor) -> None:
    state = state_of(model)
    parameters = {name: state.pop(name) for name, _ in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**parameters, **state}, (image[None],))
        return F.cross_entropy(logits, label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, LABELS)
    F.cross_entropy(model(images), LABELS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(each[name].mean(dim=0), parameter.grad, atol=1e-4, rtol=1e-3)


def test_jacobians(small: T2TViT) -> None:
    image = torch.randn(1, 3, 32, 32)
    rows = jacrev(small)(image)  # (1, 5, 1, 3, 32, 32)
    watched = image.clone().requires_grad_()
    for number in range(5):
        [row] = torch.autograd.grad(small(watched)[0, number], watched)
        close(rows[0, number], row)
    direction = torch.randn_like(image)
    with sdpa_kernel(SDPBackend.MATH):  # torch's own fused attention has no forward mode
        value, along = jvp(small, (image,), (direction,))
    close(value, small(image))
    close(along[0], (rows[0] * direction).flatten(1).sum(dim=1))


def test_gradients_of_gradients(small: T2TViT) -> None:
    image = torch.randn(1, 3, 32, 32, requires_grad=True)

    def penalty(image: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # torch's own fused attention has no second derivative
            [gradient] = torch.autograd.grad(small(image).square().sum(), image, create_graph=True)
        return gradient.square().sum()

    [second] = torch.autograd.grad(penalty(image), image)
    step = torch.randn_like(image) * 1e-3
    change = penalty((image + step).detach().requires_grad_()) - penalty((image - step).detach().requires_grad_())
    assert change.item() == pytest.approx(2 * (second * step).sum().item(), rel=0.05)


def test_an_ensemble(images: Tensor) -> None:
    members = [create_model("t2t_vit_quickstart", num_classes=5, image_size=32).eval() for _ in range(3)]
    parameters, buffers = stack_module_state(members)

    def answer(parameters: Any, buffers: Any) -> Tensor:
        return functional_call(members[0], (parameters, buffers), (images,))

    with torch.no_grad():
        together = vmap(answer)(parameters, buffers)
        close(together, torch.stack([member(images) for member in members]))


def test_copies_and_pickles_answer_alike(model: T2TViT, images: Tensor) -> None:
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    others = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stored, weights_only=False),
        create_model(model.name, num_classes=5, image_size=32).eval(),
    ]
    assert others[-1].load_state_dict(model.state_dict(), strict=True).missing_keys == []
    expected = model(images).detach()
    for other in others:
        with torch.no_grad():
            close(other(images), expected)
        with torch.no_grad():
            other.norm.bias.data += 1
            assert (other(images) - expected).abs().max() > 1e-3
    close(model(images).detach(), expected)


def test_compiled(small: T2TViT, images: Tensor) -> None:
    compiled = torch.compile(small, fullgraph=True)
    with torch.no_grad():
        close(compiled(images), small(images))
    close(compiled(images), small(images))
    F.cross_entropy(compiled(images), LABELS).backward()
    gradients = [parameter.grad.clone() for parameter in small.parameters() if parameter.grad is not None]
    small.zero_grad()
    F.cross_entropy(small(images), LABELS).backward()
    for one, parameter in zip(gradients, small.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-3)
