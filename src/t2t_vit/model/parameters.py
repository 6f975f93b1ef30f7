"""The parts of a network: which of them are trained, and their parameters by layer, for layer-wise learning rates."""

import re
from typing import Any, Self

from torch import nn

from t2t_vit.errors import UserError

_NUMBER = re.compile(r"blocks\.(\d+)\.")


class Freezable(nn.Module):
    """A network with `tokens_to_token`, `cls_token`, `pos_drop`, `blocks` and `norm`, the first of which may be frozen.

    What is frozen gets no gradient and stays in eval mode, without dropout: an image has the same features in every
    pass, those that the weights were trained to give.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen = ""  # a name, not modules: these may be replaced or pruned

    def freeze(self, what: str) -> None:
        """Train `what` no more, and everything else.

        Args:
            what: "tokens": the T2T module and the class token; a number N: also the first N of `blocks`;
                "backbone": all but the head; "": nothing is frozen.

        Raises:
            UserError: there are fewer blocks, or it is none of these.
        """
        frozen = self._named(what)
        blocks: Any = self.get_submodule("blocks")
        if what.isdecimal() and int(what) > len(blocks):
            raise UserError(f"freeze {what}: the network has {len(blocks)} blocks; give fewer, or backbone")
        self._frozen = what
        self.requires_grad_(True)
        for module in frozen:
            module.requires_grad_(False)
        self.get_parameter("cls_token").requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As torch's, except for what is frozen."""
        super().train(mode)
        for module in self._named(self._frozen):
            module.eval()
        return self

    def _named(self, what: str) -> list[nn.Module]:
        """The modules that `what` stands for, as they are now."""
        blocks: Any = self.get_submodule("blocks")
        stem = [self.get_submodule("tokens_to_token"), self.get_submodule("pos_drop")]
        match what:
            case "":
                return []
            case "tokens":
                return stem
            case "backbone":
                return [*stem, blocks, self.get_submodule("norm")]
            case _ if not what.isdecimal() or int(what) < 1:
                raise UserError(f"freeze {what!r} is not known; choose tokens, backbone or a number of blocks")
        return [*stem, *blocks[: int(what)]]


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of the parameters: the T2T module and class token, each entry of `blocks`, the head.

    The final norm goes with the last block, as in timm. For layer-wise decay give group i of L the learning rate
    lr * decay^(L - 1 - i).
    """
    blocks: Any = model.get_submodule("blocks")
    groups: list[list[str]] = [[] for _ in range(len(blocks) + 2)]
    for name, _ in model.named_parameters():
        if number := _NUMBER.match(name):
            groups[int(number[1]) + 1].append(name)
        elif name.startswith("norm."):
            groups[-2].append(name)
        else:
            groups[-1 if name.startswith("head.") else 0].append(name)
    return groups


def group_matcher(coarse: bool) -> dict[str, Any]:
    """The same in timm's form: regular expressions of names; `coarse` makes the blocks one group."""
    blocks = r"^blocks" if coarse else r"^blocks\.(\d+)"
    return {
        "stem": r"^cls_token|^pos_embed|^tokens_to_token",
        "blocks": [(blocks, None), (r"^norm", (99999,))],
    }
