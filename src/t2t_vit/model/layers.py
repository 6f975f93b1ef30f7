"""Parameters by layer, for learning rates that fall from the head to the image."""

import re
from typing import Any

from torch import nn

_NUMBER = re.compile(r"blocks\.(\d+)\.")


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
