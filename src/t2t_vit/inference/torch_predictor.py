"""Predictions by PyTorch."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.fast.kernels import prepared
from t2t_vit.inference.cuda_graph import GraphedNetwork
from t2t_vit.inference.plan import Plan, Workload, plan_for
from t2t_vit.inference.predictor import Predictor
from t2t_vit.precision import Precision


class TorchPredictor(Predictor):
    """A network in eval mode, plain or made fast as `kernels` says.

    Args:
        model: float (B, in_chans, height, width) -> logits (B, num_classes); moved to the precision's device, cast to
            its weights, and set to eval mode. Packed, it is copied instead.
        precision: where and in which numbers it runs; None is float32 on the CPU.
        plan: how it runs on an accelerator; None is the way for a work of unknown size.
        kernels: as the key; "reference" is the model as it is, and all that a module that is no T2T-ViT can be.

    Attributes:
        model: what predicts.
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
        self.model, self.made_of = prepared(model.eval(), kernels, self.precision)
        self.plan = plan or plan_for(self.precision.device.type, Workload())
        self.computes_ahead = self.precision.device.type == "cuda"

    def logits(self, images: Tensor) -> Tensor:
        return self.begin(images)()

    def begin(self, images: Tensor) -> Callable[[], Tensor]:
        with torch.inference_mode():
            if self.computes_ahead:
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
        # Compiled as a function: of a module, the hook that casts images would be a graph of its own.
        network = torch.compile(self._forward, dynamic=False) if self.plan.compiled else self._forward
        return GraphedNetwork(network) if self.plan.graphed else network

    def _forward(self, images: Tensor) -> Tensor:
        with self.precision.autocast():
            return self.model(images)


def filled(images: Tensor, count: int) -> Tensor:
    """Images (B, C, H, W), and the first of them again until there are `count`."""
    missing = count - len(images)
    return images if missing <= 0 else torch.cat([images, images[:1].expand(missing, -1, -1, -1)])
