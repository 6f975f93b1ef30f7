"""`--device`, in the words that PyTorch and other tools use -> the keys that say the same."""

import sys
from collections.abc import Mapping

from t2t_vit.errors import UserError
from t2t_vit.settings.values import Value

# Apple's machines have MPS, which others lack, and no accelerator of NVIDIA, AMD or Intel.
_ELSEWHERE = {True: ("cuda", "xpu"), False: ("mps",)}


def device_keys(text: str, line: Mapping[str, Value]) -> dict[str, Value]:
    """`device_target`, and `device_id` where there is a number, for a `device` such as cuda:1, cpu, mps or 0.

    Args:
        line: the keys that were given beside it.

    Raises:
        UserError: a device that this kind of machine never has, or a key that says something else.
    """
    kind, _, number = text.lower().partition(":")
    if kind.isdigit():
        kind, number = "gpu", kind
    if kind in _ELSEWHERE[sys.platform == "darwin"]:
        raise UserError(
            f"--device {text}: this machine has none; write --device auto for the accelerator that it has, or "
            "--device cpu"
        )
    targets = {"auto": "auto", "cpu": "CPU", "mps": "MPS", "xpu": "XPU", "npu": "Ascend"}
    keys: dict[str, Value] = {"device_target": targets.get(kind, "GPU")}
    keys |= {"device_id": int(number)} if number else {}
    for name, value in keys.items():
        if line.get(name, value) != value:
            raise UserError(f"--device {text} and --{name} {line[name]} contradict each other; leave one of them out")
    return keys
