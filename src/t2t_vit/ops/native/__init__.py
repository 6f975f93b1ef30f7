"""Kernels of ours in C++ for processors with AVX-512 and bfloat16, compiled once on the machine that runs them."""

from t2t_vit.ops.native.attention import MOST_TOKENS, attends, native_attention, native_mix, trainable_attention
from t2t_vit.ops.native.layer import NativeLayer
from t2t_vit.ops.native.library import unavailable
from t2t_vit.ops.native.linear import PartedLayer, multiplies, native_linear, native_product
from t2t_vit.ops.native.linear_add import trainable_linear_add
from t2t_vit.ops.native.norm_linear import trainable_norm_linear
from t2t_vit.ops.native.performer import native_performer, performs
from t2t_vit.ops.native.tail import SIDE, ends, native_tail
from t2t_vit.ops.native.windows import native_windows

__all__ = [
    "MOST_TOKENS",
    "SIDE",
    "NativeLayer",
    "PartedLayer",
    "attends",
    "ends",
    "multiplies",
    "native_attention",
    "native_linear",
    "native_mix",
    "native_performer",
    "native_product",
    "native_tail",
    "native_windows",
    "performs",
    "trainable_attention",
    "trainable_linear_add",
    "trainable_norm_linear",
    "unavailable",
]
