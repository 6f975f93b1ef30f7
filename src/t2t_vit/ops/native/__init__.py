"""Kernels of ours in C++ for processors with AVX-512 and bfloat16, compiled once on the machine that runs them."""

from t2t_vit.ops.native.attention import MOST_TOKENS, attends, native_attention, native_mix, trainable_attention
from t2t_vit.ops.native.layer import NativeLayer
from t2t_vit.ops.native.library import unavailable
from t2t_vit.ops.native.performer import native_performer, performs
from t2t_vit.ops.native.tail import SIDE, ends, native_tail
from t2t_vit.ops.native.windows import native_windows

__all__ = [
    "MOST_TOKENS",
    "SIDE",
    "NativeLayer",
    "attends",
    "ends",
    "native_attention",
    "native_mix",
    "native_performer",
    "native_tail",
    "native_windows",
    "performs",
    "trainable_attention",
    "unavailable",
]
