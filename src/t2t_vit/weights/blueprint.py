"""Names and shapes of a variant's tensors, without their memory and without the time to initialise them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from t2t_vit.model import create_model
from t2t_vit.model.skeleton import skeleton
from t2t_vit.variants import VARIANTS

HEAD = ("head.weight", "head.bias")
POSITIONS = "pos_embed"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """Where a tensor's shape grows with the input channels: `axis` has `window` entries for each of them."""

    axis: int
    window: int

    def count(self, shape: Shape, expected: Shape) -> int | None:
        """Channels of a tensor of `shape`, where `expected` is that of another count; None if it is no such tensor."""
        same = len(shape) == len(expected) and all(
            one == other for axis, (one, other) in enumerate(zip(shape, expected, strict=True)) if axis != self.axis
        )
        return shape[self.axis] // self.window if same and shape[self.axis] % self.window == 0 else None


@cache
def shapes(arch: str, in_chans: int = 3) -> Mapping[str, Shape]:
    """The state dict of `arch` with 1000 classes at 224 pixels."""
    model = skeleton(lambda: create_model(arch, in_chans=in_chans))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@cache
def channel_layers(arch: str) -> Mapping[str, Channels]:
    """The tensors of `arch` that see the channels of the image; none of a network that is not in the table."""
    if arch not in VARIANTS:
        return {}
    three, four = shapes(arch, 3), shapes(arch, 4)
    found = {}
    for name, shape in three.items():
        for axis, (small, large) in enumerate(zip(shape, four[name], strict=True)):
            if small != large:
                found[name] = Channels(axis, large - small)
    return found
