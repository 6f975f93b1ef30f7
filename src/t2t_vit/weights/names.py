"""The names that other programs give to the same tensors -> the authors' names."""

import re
from collections.abc import Mapping

from torch import Tensor

from t2t_vit.weights.mindspore_names import is_mindspore, to_torch

# Wrappers that leave their name in front of every key.
_WRAPPERS = ("module.", "_orig_mod.")
_ANCHOR = "cls_token"
_MMPRETRAIN_ANCHOR = re.compile(r"encoder\.\d+\.ln1\.")
_MMPRETRAIN = (
    (re.compile(r"^encoder\."), "blocks."),
    (re.compile(r"\.ln([12])\."), r".norm\1."),
    (re.compile(r"\.ffn\.layers\.0\.0\."), ".mlp.fc1."),
    (re.compile(r"\.ffn\.layers\.1\."), ".mlp.fc2."),
    (re.compile(r"^head\.layers\.head\."), "head."),
)
_TIMM = ((re.compile(r"^patch_embed\."), "tokens_to_token."),)


def authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under the names of the authors' code.

    Known are the wrappers of DataParallel and torch.compile, any one prefix before all of a network's names
    (`backbone.`), mmpretrain's names of t2t_vit_t_14, 19 and 24, those of timm's pull request 2426, and MindSpore's.
    """
    found = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    found = _without_prefix(found)
    if any(_MMPRETRAIN_ANCHOR.match(name) for name in found):
        found = _replaced(found, _MMPRETRAIN)
    if not any(name.startswith("tokens_to_token.") for name in found):
        found = _replaced(found, _TIMM)
    return to_torch(found) if is_mindspore(found) else found


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`backbone.norm.weight` -> `norm.weight`, where the only class token is `backbone.cls_token`."""
    anchors = [name for name in tensors if name == _ANCHOR or name.endswith(f".{_ANCHOR}")]
    if len(anchors) != 1 or anchors[0] == _ANCHOR:
        return tensors
    prefix = anchors[0].removesuffix(_ANCHOR)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _replaced(tensors: dict[str, Tensor], rules: tuple[tuple[re.Pattern[str], str], ...]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in rules:
            new = pattern.sub(replacement, new)
        renamed[new] = tensor
    return renamed
