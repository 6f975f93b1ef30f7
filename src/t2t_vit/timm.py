"""Every variant in timm's registry: `import t2t_vit.timm`, then `timm.create_model("t2t_vit_14", num_classes=10)`.

timm's scripts take it as `--device-modules t2t_vit.timm` where they have that option. Arguments have timm's names.
`pretrained=True` fetches the authors' release, `pretrained_cfg_overlay={"file": ...}` takes any weights file, and
both are fitted to another class count, image size and number of channels. `features_only=True` gives strides 4, 8, 16
(2, 4, 8 of the networks for small images).
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import timm.models
import torch
from torch import Tensor

from t2t_vit.model import T2TViT
from t2t_vit.model.drop import DropBlock, Dropout, DropPath
from t2t_vit.model.head import GlobalPool
from t2t_vit.model.inputs import PositionPolicy, default_cfg, positions_for, size_of
from t2t_vit.ops.performer import performer_attention
from t2t_vit.variants import VARIANTS
from t2t_vit.weights import fit, load_weights
from t2t_vit.weights.location import ADDRESS

__all__: list[str] = []  # timm appends each name that it registers
default_cfgs: dict[str, dict[str, Any]] = {
    # No convolution comes first, and weights are fitted by us: hence timm's custom loading.
    name: {
        **default_cfg(row, 1000, 3, (224, 224)),
        "url": row.weights_file and ADDRESS + row.weights_file,
        "custom_load": True,
    }
    for name, row in VARIANTS.items()
}


class TimmT2TViT(T2TViT):
    """A T2TViT that is built from timm's arguments and loads weights when timm tells it to.

    Args:
        variant_name: row of the table.
        img_size: one side or (height, width) in pixels.
        drop_rate, drop_path_rate, drop_block_rate, performer_drop: as `drop`, ... of `T2TViT`.
        other_sizes: as in `T2TViT`, but other sizes are taken: timm's scripts feed `--img-size` without telling the
            network.
        device, dtype: where the network is put, and as what, once it is initialised.
    """

    def __init__(
        self,
        variant_name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: GlobalPool = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        performer_drop: float = 0.1,
        approximate_gelu: bool = False,
        other_sizes: PositionPolicy | None = "rebuild",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            VARIANTS[variant_name],
            variant_name,
            num_classes=num_classes,
            in_chans=in_chans,
            image_size=size_of(img_size),
            drop=drop_rate,
            drop_path=drop_path_rate,
            drop_block=drop_block_rate,
            performer_drop=performer_drop,
            approximate_gelu=approximate_gelu,
            global_pool=global_pool,
            other_sizes=other_sizes,
        )
        self.to(device=device, dtype=dtype)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, position: PositionPolicy = "rebuild"
    ) -> None:
        """As `T2TViT.set_input_size`; None changes nothing."""
        if img_size is not None:
            super().set_input_size(img_size, position)

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, **options: Any) -> Self:
        """See `t2t_vit.from_pretrained`; the network is then of this class, which is built from other arguments."""
        model: Any = T2TViT.from_pretrained(path_or_repo, **options)
        model.__class__ = cls
        same: Self = model
        return same

    def load_pretrained(self, path: str) -> None:
        """Load any weights file, fitted to this model; timm calls this with what it downloaded."""
        load_weights(self, path)


def _fitted(tensors: Mapping[str, Tensor], model: T2TViT) -> dict[str, Tensor]:
    """A state dict that timm read by itself, fitted to the model."""
    fit(model, tensors, path="the pretrained weights")
    fitted: dict[str, Tensor] = model.state_dict()
    return fitted


def _entry_point(name: str) -> Callable[..., Any]:
    def create(pretrained: bool = False, **kwargs: Any) -> Any:
        return timm.models.build_model_with_cfg(
            partial(TimmT2TViT, name),
            name,
            pretrained,
            pretrained_filter_fn=_fitted,
            feature_cfg={"out_indices": (0, 1, -1), "feature_cls": "getter"},
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}; see `TimmT2TViT` for the arguments."
    return create


# What asks for shapes or modes while it runs stays whole when torch.fx traces a network.
for module in (Dropout, DropPath, DropBlock):
    timm.models.register_notrace_module(module)
register_function: Any = timm.models.register_notrace_function  # untyped
register_function(positions_for)
register_function(performer_attention)

for _name in VARIANTS:
    globals()[_name] = timm.models.register_model(_entry_point(_name))
