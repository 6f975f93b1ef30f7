"""Models by name."""

from t2t_vit.errors import UserError
from t2t_vit.model.head import GlobalPool, check_pool
from t2t_vit.model.input import size_of
from t2t_vit.model.position import PositionPolicy
from t2t_vit.model.t2t_vit import T2TViT
from t2t_vit.variants import VARIANTS, find_variant


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    image_size: int | tuple[int, int] = 224,
    drop: float = 0.0,
    drop_path: float = 0.0,
    drop_block: float = 0.0,
    performer_drop: float = 0.1,
    approximate_gelu: bool = False,
    global_pool: GlobalPool = "token",
    other_sizes: PositionPolicy | None = None,
    kernels: str = "auto",
) -> T2TViT:
    """A freshly initialised model of the variant `name`; see `T2TViT` for the arguments.

    `image_size` is one side in pixels or (height, width).

    Raises:
        UserError: no such variant, or a value that no network can have.
    """
    variant = find_variant(name)
    size = size_of(image_size)
    check_pool(global_pool)
    if num_classes < 1 or in_chans < 1:
        raise UserError(
            f"num_classes {num_classes} and in_chans {in_chans}: both have to be at least 1; "
            "for features without a head call reset_classifier(0)"
        )
    return T2TViT(
        variant,
        name,
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=size,
        drop=drop,
        drop_path=drop_path,
        drop_block=drop_block,
        performer_drop=performer_drop,
        approximate_gelu=approximate_gelu,
        global_pool=global_pool,
        other_sizes=other_sizes,
        kernels=kernels,
    )


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return list(VARIANTS)
