"""How a network runs on an accelerator: a few facts -> an engine, which the output names."""

from collections.abc import Callable
from dataclasses import dataclass

# An estimate, to be measured on a GPU: compiling takes a minute or two, in which it answers some 600,000 images
# eagerly, and saves perhaps half of the time from then on.
REPAYS_COMPILING = 1_000_000


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
    Compiling is for long jobs, and every shape would be compiled anew, so the last batch is filled up. On a CPU
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
