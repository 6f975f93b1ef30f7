"""The names that other programs give to the same tensors -> the authors' names; and MindSpore's names, both ways.

MindSpore calls a norm's weight and bias gamma and beta, and gives the kernel of a one-dimensional convolution a height
of 1. All its other names and shapes are PyTorch's.
"""

import re
from collections.abc import Mapping

from torch import Tensor

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

_TO_TORCH = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under the names of the authors' code.

    Known are the wrappers of DataParallel and torch.compile, any one prefix before all of a network's names
    (`backbone.`), mmpretrain's names of t2t_vit_t_14, 19 and 24, those of timm's pull request 2426, and MindSpore's.
    """
    found = {unwrapped(name): tensor for name, tensor in tensors.items()}
    found = _without_prefix(found)
    if any(_MMPRETRAIN_ANCHOR.match(name) for name in found):
        found = _replaced(found, _MMPRETRAIN)
    if not any(name.startswith("tokens_to_token.") for name in found):
        found = _replaced(found, _TIMM)
    return to_torch(found) if is_mindspore(found) else found


def unwrapped(name: str) -> str:
    """The name without those of the wrappers before it."""
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


def is_mindspore(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are MindSpore's names, whatever the file that they lie in."""
    return any(name.endswith(".gamma") for name in tensors)


def to_torch(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of MindSpore's names under the names of PyTorch."""
    renamed = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        is_narrow = last == "weight" and tensor.ndim == 4 and tensor.shape[2] == 1
        new = f"{module}.{_TO_TORCH[last]}" if module and last in _TO_TORCH else name
        renamed[new] = tensor.squeeze(2) if is_narrow else tensor
    return renamed


def to_mindspore(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of PyTorch's names under the names of MindSpore; a norm is known by its one-dimensional weight."""
    norms = {
        name.rpartition(".")[0] for name, tensor in tensors.items() if name.endswith(".weight") and tensor.ndim == 1
    }
    renamed = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        back = {torch_name: name for name, torch_name in _TO_TORCH.items()} if module in norms else {}
        is_narrow = last == "weight" and tensor.ndim == 3
        renamed[f"{module}.{back[last]}" if last in back else name] = tensor.unsqueeze(2) if is_narrow else tensor
    return renamed
