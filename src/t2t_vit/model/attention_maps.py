"""Looking at what attends to what, while the network runs as it always does."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from t2t_vit.errors import UserError

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

    The weights are computed beside the forward pass, whose numbers do not change, and are part of the autograd graph
    where gradients are on. A compiled or exported model does not call back: give the module itself.

    Args:
        places: numbers of entries of `model.blocks`, as for a list, or "attention1" and "attention2", the stages of
            the tokens-to-token module, whose maps are (B, 1, N, N) over all windows: 39 MB an image for the first at
            224 pixels. None: every block with attention.

    Returns:
        Place -> weights of the latest forward pass, in the order in which they were computed.

    Raises:
        UserError: a place that this network does not have, or that has no attention.
    """
    maps: dict[Place, Tensor] = {}
    wanted = _with_attention(model) if places is None else places
    with ExitStack() as hooks:
        for place in wanted:
            module = _attention_at(model, place)
            handle = module.register_forward_pre_hook(_keeper(maps, place))
            hooks.callback(handle.remove)
        yield maps


def _keeper(maps: dict[Place, Tensor], place: Place) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        weights: Any = module.weights
        maps[place] = weights(inputs[0])

    return keep


def _with_attention(model: "T2TViT") -> list[Place]:
    return [number for number, block in enumerate(model.blocks) if hasattr(block, "attn")]


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
    return module
