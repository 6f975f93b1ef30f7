"""The block that a CPU trains in a few operations, beside the same block computed plainly."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from t2t_vit.model import attention as attention_module
from t2t_vit.model import block as block_module
from t2t_vit.model.attention import Attention
from t2t_vit.model.block import Block
from t2t_vit.model.drop import share_seeds
from t2t_vit.model.mlp import Mlp
from t2t_vit.ops import native
from t2t_vit.ops.native.library import has_tiles

DIM, HEADS = 64, 2
TILES = native.unavailable() is None and has_tiles()


def a_block(drop_path: float = 0.0, drop: float = 0.0, approximate_gelu: bool = False) -> Block:
    torch.manual_seed(0)
    block = Block(DIM, Attention(DIM, HEADS, drop), Mlp(DIM, 3 * DIM, drop, approximate_gelu), drop_path)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    return block.train()


def trained(block: nn.Module, tokens: Tensor, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """The answer, and the gradients of tokens and parameters."""
    leaf = tokens.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=tokens.dtype is torch.float32):
        answer = block(leaf)
    return [answer.detach(), *torch.autograd.grad(answer.square().sum(), [leaf, *block.parameters()])]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which way blocks went, a call each."""
    way: list[bool] = []
    asked = block_module.trains_natively

    def watch(block: nn.Module, tokens: Tensor) -> bool:
        way.append(asked(block, tokens))
        return way[-1]

    monkeypatch.setattr(block_module, "trains_natively", watch)
    return way


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_answer_and_gradients(
    drop_path: float, approximate: bool, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    block, tokens = a_block(drop_path, approximate_gelu=approximate), torch.randn(6, 50, DIM)
    share_seeds(block).set(torch.arange(6))  # the same samples are dropped each time
    ours = trained(block, tokens)
    assert taken == [TILES]
    monkeypatch.setattr(block_module, "trains_natively", lambda *_: False)
    plain = trained(block, tokens)
    exact = trained(copy.deepcopy(block).double(), tokens.double())
    assert [mine.dtype for mine in ours] == [other.dtype for other in plain]
    for mine, other, right in zip(ours, plain, exact, strict=True):
        assert (mine - right).abs().max() <= 2 * (other - right).abs().max() + 1e-6


def test_drop_path_draws_as_the_plain_block_does(monkeypatch: pytest.MonkeyPatch) -> None:
    block, tokens = a_block(0.5), torch.randn(16, 3, DIM)
    torch.manual_seed(5)
    ours = trained(block, tokens)[0]
    after = torch.rand(1)
    monkeypatch.setattr(block_module, "trains_natively", lambda *_: False)
    torch.manual_seed(5)
    plain = trained(block, tokens)[0]
    assert torch.equal(after, torch.rand(1))
    assert torch.equal((ours == tokens).all(dim=(1, 2)), (plain == tokens).all(dim=(1, 2)))
    assert (ours == tokens).all(dim=(1, 2)).any()


def test_the_same_twice() -> None:
    block, tokens = a_block(), torch.randn(2, 197, DIM)
    for one, two in zip(trained(block, tokens), trained(block, tokens), strict=True):
        assert torch.equal(one, two)


def hook_a_layer(block: Block) -> None:
    block.mlp.register_forward_hook(lambda *_: None)


def hook_inside(block: Block) -> None:
    block.attn.get_submodule("qkv").register_forward_pre_hook(lambda *_: None)


def freeze_a_weight(block: Block) -> None:
    block.norm1.weight.requires_grad_(False)


def replace_a_layer(block: Block) -> None:
    block.mlp.fc1 = nn.Sequential(nn.Linear(DIM, 3 * DIM))


def ask_for_the_reference(block: Block) -> None:
    block.attn.kernels = "reference"


def patch_a_layer(block: Block) -> None:
    block.mlp.fc2.forward = block.mlp.fc2.forward


def drop_a_bias(block: Block) -> None:
    block.attn.get_submodule("proj").bias = None


def drop_the_norms_bias(block: Block) -> None:
    block.norm1 = nn.LayerNorm(DIM, bias=False)


def take_heads_out(block: Block) -> None:
    block.attn.qkv = nn.Linear(DIM, 3 * DIM // 2)
    block.attn.proj = nn.Linear(DIM // 2, DIM)


CHANGES = [
    hook_a_layer,
    hook_inside,
    freeze_a_weight,
    replace_a_layer,
    ask_for_the_reference,
    patch_a_layer,
    drop_a_bias,
    drop_the_norms_bias,
    take_heads_out,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_that_is_not_plain_goes_the_plain_way(change: Callable[[Block], None], taken: list[bool]) -> None:
    block = a_block()
    change(block)
    with torch.autocast("cpu", torch.bfloat16):
        block(torch.randn(2, 5, DIM)).sum().backward()
    assert taken == [False]


def test_a_block_that_everybody_watches_goes_the_plain_way(taken: list[bool]) -> None:
    watch = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            a_block()(torch.randn(2, 5, DIM))
    finally:
        watch.remove()
    assert taken == [False]


def test_tokens_that_do_not_fit_are_refused(taken: list[bool]) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="normalized_shape"):
        a_block()(torch.randn(2, 5, DIM + 32))
    assert taken == [False]


def test_no_images(taken: list[bool]) -> None:
    block, tokens = a_block(), torch.randn(0, 5, DIM)
    for found in trained(block, tokens):
        assert not found.any()
    assert taken == [False]


def test_where_it_steps_aside(taken: list[bool]) -> None:
    block, tokens = a_block(), torch.randn(2, 5, DIM)
    block(tokens)  # float32
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            block(tokens)
        with FlopCounterMode(display=False):
            block(tokens)
        torch.func.grad(lambda inputs: block(inputs).sum())(tokens)
        a_block(drop=0.1)(tokens)
    with torch.autocast("cpu", torch.float16):
        block(tokens)
    assert taken == [False] * 6
    with torch.autocast("cpu", torch.bfloat16):
        block(tokens)
    assert taken[-1] == TILES


def test_compiled_it_is_one_graph_for_all_batches() -> None:
    block = a_block()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(block, backend=keep, fullgraph=True, dynamic=True)
    for batch in (2, 3, 7):
        tokens = torch.randn(batch, 5, DIM)
        for ours, eager in zip(trained(compiled, tokens), trained(block, tokens), strict=True):
            torch.testing.assert_close(ours, eager, rtol=0, atol=0 if TILES else 1e-5)
    assert len(graphs) == 1
    called = [str(node.target) for node in graphs[0].graph.nodes if "t2t_vit" in str(node.target)]
    kinds = ("native_norm_linear", "native_attention", "native_linear_add")
    assert [sum(kind in name for name in called) for kind in kinds] == ([2, 1, 2] if TILES else [0, 0, 0])


def test_a_network_with_gradient_checkpoints_gets_the_same_gradients(taken: list[bool]) -> None:
    block, tokens = a_block(), torch.randn(2, 20, DIM)
    plain = trained(block, tokens)
    leaf = tokens.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        answer = torch.utils.checkpoint.checkpoint(block, leaf, use_reentrant=False)
    for one, two in zip(
        plain[1:], torch.autograd.grad(answer.square().sum(), [leaf, *block.parameters()]), strict=True
    ):
        assert torch.equal(one, two)
    assert taken == [TILES] * 3


def by_products(qkv: Tensor, heads: int, scale: float, _: str) -> Tensor:
    queries, keys, values = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return ((queries * scale @ keys.transpose(-2, -1)).softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


def test_gradients_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    block, tokens = a_block(0.5), torch.randn(2, 6, DIM, requires_grad=True)
    share_seeds(block).set(torch.arange(2))

    def second(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=inputs.dtype is torch.float32):
            answer = block(inputs)
        [first] = torch.autograd.grad(answer.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(first.square().sum(), inputs)[0]

    ours = second(tokens)
    monkeypatch.setattr(block_module, "trains_natively", lambda *_: False)
    monkeypatch.setattr(attention_module, "self_attention", by_products)  # torch's own has no second derivative
    plain = second(tokens)
    block.double()
    exact = second(tokens.detach().double().requires_grad_())
    assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6
