"""Predictions by PyTorch, and how a network runs on an accelerator: a few facts -> a plan, which the output names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.fast.kernels import prepared
from t2t_vit.inference.predictor import Predictor
from t2t_vit.precision import Precision

# An estimate, to be measured on a GPU: compiling takes a minute or two, in which it answers some 600,000 images
# eagerly, and saves perhaps half of the time from then on.
REPAYS_COMPILING = 1_000_000
_CALLS_BEFORE_GRAPH = 3  # eager calls of a shape: kernels are chosen, loaded or compiled in them
_MOST_GRAPHS = 4  # shapes; each needs its own memory

Network = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """What is known of the work ahead.

    Attributes:
        images: how many there will be at least; 0 where nobody knows.
        batch: the largest number of images in a call; 0 where nobody knows.
    """

    images: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Plan:
    """How to run.

    Attributes:
        compiled: by torch.compile.
        graphed: calls of a shape that has come before are replayed as a CUDA graph.
        fill: batches with fewer images are filled up to so many, so that all have one shape; 0: they are not.
        because: why it is not compiled where it could have been expected.
    """

    compiled: bool = False
    graphed: bool = False
    fill: int = 0
    because: str = ""

    def __str__(self) -> str:
        parts = ["compiled" if self.compiled else "eager"]
        parts += ["CUDA graphs"] if self.graphed else []
        return ", ".join(parts) + (f" ({self.because})" if self.because else "")


def plan_for(device: str, work: Workload, why_no_compiler: Callable[[], str] = str) -> Plan:
    """The way for `work` on a device of the type `device`.

    CUDA replays graphs: a network of a hundred small kernels waits for the host otherwise, most of all with one image.
    Compiling is for long jobs, and every shape would be compiled again, so the last batch is filled up. On a CPU
    there is nothing to plan: `fast.packing` has laid the network out.

    Args:
        why_no_compiler: finds out why nothing can be compiled here, empty where it can; asked only if that matters.
    """
    if device != "cuda":
        return Plan()
    fill = work.batch if work.images > work.batch else 0
    if work.images < REPAYS_COMPILING or not fill:
        return Plan(graphed=True, fill=fill)
    reason = why_no_compiler()
    if reason:
        return Plan(graphed=True, fill=fill, because=f"not compiled: {reason}")
    return Plan(compiled=True, graphed=True, fill=fill)


class TorchPredictor(Predictor):
    """A network in eval mode, plain or made fast as `kernels` says.

    Args:
        model: float (B, in_chans, height, width) -> logits (B, num_classes); moved to the precision's device, cast to
            its weights, and set to eval mode. Packed, it is copied instead.
        precision: where and in which numbers it runs; None is float32 on the CPU.
        plan: how it runs on an accelerator; None is the way for a work of unknown size.
        kernels: as the key; "reference" is the model as it is, and all that a module that is no T2T-ViT can be.

    Attributes:
        network: what it was given; what is looked into and exported.
        model: what predicts: the network, or a packed copy of it.
        made_of: what that is, in a few words.

    Raises:
        UserError: kernels that were asked for by name cannot run.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        classes: Sequence[str] | None,
        precision: Precision | None = None,
        plan: Plan | None = None,
        kernels: str = "reference",
    ) -> None:
        super().__init__(preprocessing, classes)
        self.precision = precision or Precision("O0", torch.device("cpu"))
        self.network = model.eval()
        self.model, self.made_of = prepared(self.network, kernels, self.precision)
        self.plan = plan or plan_for(self.precision.device.type, Workload())
        self.is_asynchronous = self.precision.device.type == "cuda"

    def logits(self, images: Tensor) -> Tensor:
        return self.begin(images)()

    def begin(self, images: Tensor) -> Callable[[], Tensor]:
        with torch.inference_mode():
            if self.is_asynchronous:
                return self._begin_on_cuda(images)
            normalised = self.preprocessing.normalize(images.to(self.precision.device))  # (B, in_chans, height, width)
            logits = self._network(normalised).float().cpu()  # (B, num_classes)
        return lambda: logits

    def _begin_on_cuda(self, images: Tensor) -> Callable[[], Tensor]:
        """Nothing here waits for the device: pixels go there from pinned memory, and logits come back into it."""
        pixels = images.pin_memory().to(self.precision.device, non_blocking=True)
        logits = self._network(self.preprocessing.normalize(filled(pixels, self.plan.fill))).float()
        answers = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
        answers.copy_(logits, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def wait() -> Tensor:
            done.synchronize()
            return answers[: len(images)].clone()  # (B, num_classes)

        return wait

    @cached_property
    def _network(self) -> Callable[[Tensor], Tensor]:
        # Compiled as a function: the hook of a module that casts images would become a separate graph.
        network = torch.compile(self._forward, dynamic=False) if self.plan.compiled else self._forward
        return GraphedNetwork(network) if self.plan.graphed else network

    def _forward(self, images: Tensor) -> Tensor:
        with self.precision.autocast():
            return self.model(images)


def filled(images: Tensor, count: int) -> Tensor:
    """Images (B, C, H, W), and the first of them again until there are `count`."""
    missing = count - len(images)
    return images if missing <= 0 else torch.cat([images, images[:1].expand(missing, -1, -1, -1)])


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
            if calls <= _CALLS_BEFORE_GRAPH or len(self._graphs) == _MOST_GRAPHS:
                return self._network(images)
            self._graphs[shape] = self._recorded(images)
        recorded = self._graphs[shape]
        recorded.images.copy_(images)
        recorded.graph.replay()
        return recorded.logits.clone()

    def _recorded(self, images: Tensor) -> _Graph:
        own = images.clone()
        graph = torch.cuda.CUDAGraph()
        # Readers may pin memory meanwhile: work of other threads is neither part of the graph nor an error.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = self._network(own)
        return _Graph(graph, own, logits)
