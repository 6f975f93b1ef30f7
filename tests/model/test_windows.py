"""Windows that wait: what the T2T module makes of them by every kind of kernels, in graphs and in files."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden import fill_by_formula, golden_case, golden_images
from t2t_vit import create_model
from t2t_vit.errors import UserError
from t2t_vit.model.token_performer import TokenPerformer
from t2t_vit.model.tokens_to_token import TokensToToken
from t2t_vit.model.windows import Windows, norm_linear
from t2t_vit.variants import VARIANTS, SoftSplit

SPLIT = SoftSplit(3, 2, 1)


def tiny(arch: str = "t2t_vit_7", kernels: str = "auto") -> TokensToToken:
    torch.manual_seed(0)
    variant = dataclasses.replace(VARIANTS[arch], token_dim=8, dim=16)
    return TokensToToken(variant, 3, drop_block=0.0, performer_drop=0.0, approximate_gelu=False, kernels=kernels).eval()


def layers() -> tuple[Windows, nn.LayerNorm, nn.Linear]:
    torch.manual_seed(0)
    return Windows(torch.randn(2, 4, 9, 7), SPLIT), nn.LayerNorm(36), nn.Linear(36, 5)


def test_windows_are_what_they_will_be() -> None:
    windows, norm, linear = layers()
    assert windows.grid == (5, 4)
    tokens = windows.tokens()
    assert tokens.shape == (2, 20, 36)
    assert torch.equal(norm_linear(windows, norm, linear), linear(norm(tokens)))
    assert torch.equal(norm_linear(tokens, norm, linear), linear(norm(tokens)))
    assert torch.equal(windows.linear(linear), linear(tokens))
    with torch.no_grad():
        torch.testing.assert_close(norm_linear(windows, norm, linear), linear(norm(tokens)))


class Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


@torch.no_grad()
def test_a_layer_that_does_more_is_called() -> None:
    """Adapters, quantised layers and hooks see the tokens, whatever is fastest."""
    windows, norm, linear = layers()
    more = Doubled(36, 5)
    more.load_state_dict(linear.state_dict())
    assert torch.equal(windows.norm_linear(norm, more), 2 * linear(norm(windows.tokens())))
    assert torch.equal(windows.linear(more), 2 * linear(windows.tokens()))
    seen: list[torch.Size] = []
    norm.register_forward_hook(lambda _module, _inputs, tokens: seen.append(tokens.shape))
    windows.norm_linear(norm, linear)
    assert seen == [(2, 20, 36)]
    with pytest.raises(UserError, match="kernels 'cpu' cannot run: a layer of the T2T module is replaced or hooked"):
        dataclasses.replace(windows, kernels="cpu").norm_linear(norm, linear)


@pytest.mark.parametrize("name", ["t2t_vit_7_224_flat", "t2t_vit_7_96"])
@pytest.mark.parametrize("kernels", ["auto", "cpu", "reference"])
@torch.no_grad()
def test_golden_without_a_gradient(name: str, kernels: str) -> None:
    """What inference does by default computes the windows by pieces; flat images are the ones that suffer."""
    case = golden_case(name)
    model = create_model(case.arch, image_size=case.size, kernels=kernels).eval()
    fill_by_formula(model)
    logits = model(golden_images(case.size, case.size, case.flat))
    assert (logits - case.tensors["logits"]).abs().max() < 5e-6


@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14"])
def test_all_kernels_train_alike(arch: str) -> None:
    images = torch.randn(2, 3, 32, 40)
    grads = []
    for kernels in ("reference", "cpu"):
        module = tiny(arch, kernels)
        module(images).square().sum().backward()
        grads.append({name: parameter.grad for name, parameter in module.named_parameters()})
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


def test_one_graph_with_one_node_a_split() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    module, images = tiny("t2t_vit_t_14"), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = module(images)
        assert torch.equal(torch.compile(module, fullgraph=True, backend=keep)(images), expected)
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("t2t_vit.split_norm_linear_cpu.default") == 2


@pytest.mark.parametrize("kernels", ["auto", "cpu"])
def test_a_file_holds_plain_operations(kernels: str) -> None:
    program = torch.export.export(tiny(kernels=kernels), (torch.randn(1, 3, 32, 32),))
    assert not [node for node in program.graph.nodes if "t2t_vit" in str(node.target)]


def test_kernels_reach_every_layer_and_are_known() -> None:
    module = create_model("t2t_vit_7", kernels="reference").tokens_to_token
    own = [layer.kernels for layer in module.modules() if isinstance(layer, TokenPerformer) or hasattr(layer, "split")]
    assert own == ["reference"] * 5
    with pytest.raises(UserError, match="there are no kernels 'quick'"):
        create_model("t2t_vit_7", kernels="quick")


def test_kernels_asked_for_by_name_do_not_fall_back() -> None:
    with pytest.raises(UserError, match="kernels 'triton' cannot run"):
        tiny(kernels="triton")(torch.randn(1, 3, 32, 32))
