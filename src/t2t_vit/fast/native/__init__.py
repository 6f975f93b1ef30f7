"""Kernels of ours in C++ for processors with AVX-512 and bfloat16, compiled once on the machine that runs them."""

from t2t_vit.fast.native.attention import can_attend, native_attention, native_mix
from t2t_vit.fast.native.layer import NativeLayer
from t2t_vit.fast.native.library import has_tiles, unavailable
from t2t_vit.fast.native.linear import PartedLayer, can_multiply_float32, native_linear
from t2t_vit.fast.native.performer import can_run_performer, native_performer
from t2t_vit.fast.native.processor import cpu_level
from t2t_vit.fast.native.tail import SIDE, can_run_tail, native_tail
from t2t_vit.fast.native.windows import native_windows

__all__ = [
    "SIDE",
    "NativeLayer",
    "PartedLayer",
    "can_attend",
    "can_multiply_float32",
    "can_run_performer",
    "can_run_tail",
    "cpu_level",
    "has_tiles",
    "native_attention",
    "native_linear",
    "native_mix",
    "native_performer",
    "native_tail",
    "native_windows",
    "unavailable",
]
