"""Speed on request: `pack`, a frozen copy for inference on a CPU; `fuse`, kernels over live weights on a GPU."""

from t2t_vit.fast.fusing import fuse, unfuse
from t2t_vit.fast.packing import PackedNetwork, pack

__all__ = ["PackedNetwork", "fuse", "pack", "unfuse"]
