"""What a network expects of its images, in timm's vocabulary, which its data tools and the Hugging Face hub read."""

from typing import Any

from t2t_vit.variants import Variant

_FIRST_LAYER = {
    "performer": "tokens_to_token.attention1.kqv",
    "transformer": "tokens_to_token.attention1.attn.qkv",
    "convolution": "tokens_to_token.soft_split0",
}


def default_cfg(variant: Variant, num_classes: int, in_chans: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """The authors' preprocessing for a network of that row: ImageNet's statistics, bicubic, crop of 0.9."""
    return {
        "input_size": (in_chans, *image_size),
        "fixed_input_size": True,
        "pool_size": variant.grids(image_size)[-1],
        "crop_pct": 0.9,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "num_classes": num_classes,
        "classifier": "head",
        "first_conv": _FIRST_LAYER[variant.tokens],
    }
