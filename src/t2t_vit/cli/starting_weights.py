"""Where a training begins: weights in the network, and of their head what the new classes have in common with it."""

from collections.abc import Sequence

import torch

from t2t_vit.model import T2TViT
from t2t_vit.weights import Weights, fit

HEAD = ("head.weight", "head.bias")
_POOLS = "its head was trained on another pool of the tokens ({}); here it sees the class token"


def start_from(model: T2TViT, weights: Weights, classes: Sequence[str]) -> list[str]:
    """Fill `model`, whose logits are `classes`, with `weights`; what was done, a sentence each.

    A head that knows its classes by name keeps those that are there again, wherever they stand now, and begins anew
    for the others: equal counts say nothing. One without names is kept where the counts agree.
    """
    pool = (weights.config or {}).get("global_pool", model.global_pool)
    told = [] if pool == model.global_pool else [f"{weights.path}: {_POOLS.format(pool or 'all tokens')}"]
    return [*_filled(model, weights, classes), *told]


def _filled(model: T2TViT, weights: Weights, classes: Sequence[str]) -> list[str]:
    known = weights.classes
    if known is None or known == tuple(classes) or HEAD[0] not in weights.tensors:
        return [f"{weights.path}: {fit(model, weights.tensors, path=weights.path, chosen=weights.chosen)}"]
    body = {name: tensor for name, tensor in weights.tensors.items() if name not in HEAD}
    report = fit(model, body, path=weights.path, chosen=weights.chosen)
    shared = [name for name in classes if name in known]
    with torch.no_grad():
        for name in HEAD:
            for label in shared:
                model.get_parameter(name)[classes.index(label)] = weights.tensors[name][known.index(label)]
    kept = f"keeps {len(shared)} of its {len(known)} classes and is new for" if shared else "is new:"
    return [f"{weights.path}: {report}", f"the head {kept} {_some([name for name in classes if name not in known])}"]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
