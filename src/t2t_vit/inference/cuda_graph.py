"""A network replayed as a CUDA graph: one call of the host in place of one a kernel."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]

_SEEN_BEFORE = 3  # eager calls of a shape: kernels are chosen, loaded or compiled in them
_MOST = 4  # shapes; each holds memory of its own


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor


class GraphedNetwork:
    """`network` on CUDA, recorded at the fourth call of a shape and replayed from then on; the same kernels, so the
    same answers. Shapes beyond the first few run eagerly.

    Args:
        network: images -> logits without a look at a value of theirs; called under `torch.inference_mode`.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._calls: dict[Shape, int] = {}
        self._graphs: dict[Shape, _Graph] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """float32 images (B, C, H, W) -> logits (B, K), which the next call leaves as they are."""
        shape = tuple(images.shape)
        if shape not in self._graphs:
            calls = self._calls[shape] = self._calls.get(shape, 0) + 1
            if calls <= _SEEN_BEFORE or len(self._graphs) == _MOST:
                return self._network(images)
            self._graphs[shape] = self._recorded(images)
        recorded = self._graphs[shape]
        recorded.images.copy_(images)
        recorded.graph.replay()
        return recorded.logits.clone()

    def _recorded(self, images: Tensor) -> _Graph:
        own = images.clone()
        graph = torch.cuda.CUDAGraph()
        # Readers may pin memory meanwhile: what other threads do is no part of the graph, and no mistake.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = self._network(own)
        return _Graph(graph, own, logits)
