"""Looking at what attends to what, while the network runs as it always does."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from t2t_vit.errors import UserError
from t2t_vit.model.backbone import Transition

if TYPE_CHECKING:
    from t2t_vit.model.t2t_vit import T2TViT

Place = int | str
_STAGES = ("attention1", "attention2")


@contextmanager
def attention_maps(model: "T2TViT", places: Sequence[Place] | None = None) -> Iterator[dict[Place, Tensor]]:
    """Collect attention weights of every forward pass within the block.

        with attention_maps(model, [0, -1, "attention2"]) as maps:
            model(images)
        maps[-1]  # (B, heads, 1 + N, 1 + N)

    The weights are computed in addition to the forward pass, whose numbers do not change, and belong to the autograd
    graph if gradients are on. A compiled or exported model cannot be observed: give the module itself.

    Args:
        places: numbers of entries of `model.blocks`, as for a list, or "attention1" and "attention2", the stages of
            the tokens-to-token module, whose maps are (B, 1, N, N) over all windows: 39 MB per image for the first at
            224 pixels. None: every block with attention.

    Returns:
        Place -> weights of the latest forward pass, in the order in which they were computed.

    Raises:
        UserError: a place that this network does not have, or without attention, or whose weights are not
            known because the module or its forward was replaced.
    """
    maps: dict[Place, Tensor] = {}
    wanted = _with_attention(model) if places is None else places
    with ExitStack() as hooks:
        for place in wanted:
            module = _attention_at(model, place)
            handle = module.register_forward_pre_hook(_keeper(maps, place), with_kwargs=True)
            hooks.callback(handle.remove)
        yield maps


def _keeper(maps: dict[Place, Tensor], place: Place) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        weights: Any = module.weights
        maps[place] = weights(*inputs, **named)

    return keep


def _with_attention(model: "T2TViT") -> list[Place]:
    """All blocks but the dense network's transitions, which let no token see another."""
    return [number for number, block in enumerate(model.blocks) if not isinstance(block, Transition)]


def _attention_at(model: "T2TViT", place: Place) -> nn.Module:
    if place in _STAGES:
        module: nn.Module | None = getattr(model.tokens_to_token, str(place), None)
    elif isinstance(place, int) and -len(model.blocks) <= place < len(model.blocks):
        module = getattr(model.blocks[place], "attn", None)
    else:
        raise UserError(
            f"{model.name} has no block {place!r}: 0 to {len(model.blocks) - 1}, or {' or '.join(map(repr, _STAGES))}"
        )
    if module is None:
        raise UserError(f"{model.name} has no attention at {place!r}")
    inner = getattr(module, "attn", module)  # of a stage with exact attention
    for asked in (module, inner):
        if (reason := _unknown(asked)) is not None:
            raise UserError(f"{model.name}: the attention at {place!r} is a {type(asked).__name__} {reason}")
    return module


def _unknown(module: nn.Module) -> str | None:
    """Why `weights` of the module does not tell what its `forward` does; None where it does."""
    if not callable(getattr(module, "weights", None)):
        return "without a method weights to ask for what it looks at"
    if "forward" in module.__dict__:
        return "with its own forward, which its weights do not describe"
    # `weights` has to come from the class that computes the answer, or from one that was made of it.
    for kind in type(module).__mro__:
        if "weights" in vars(kind) or kind.__module__.startswith("t2t_vit."):
            return None
        if not {"forward", "mix", "mix_of"}.isdisjoint(vars(kind)):
            return "that computes attention in its own way, without its own method weights"
    return None
