"""Peak memory of one contestant above its loaded model, in bytes, printed; run by compare.py in a process of its own.

On a CPU the growth of resident memory over a forward pass (the kernel's high-water mark), on a GPU the allocator's peak
over training steps.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from reference import authors_model
from torch import nn

import t2t_vit
from t2t_vit.bench.profiling import growth, peak
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_device, choose_precision
from training import as_shipped, authors_amp

SIZE = 384


def main() -> None:
    checkout, who, arch, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    device = choose_device("auto")
    if device.type == "cuda":
        theirs = who == "theirs"
        model = authors_model(checkout, arch) if theirs else t2t_vit.fuse(t2t_vit.create_model(arch).cuda())
        print(training_peak(model, batch, theirs=theirs))
    elif who == "theirs":
        print(growth_of_theirs(authors_model(checkout, arch, SIZE), batch))
    else:
        print(growth_of_ours(arch, batch))


def growth_of_theirs(model: nn.Module, batch: int) -> int:
    model.eval()
    images = torch.randn(batch, 3, SIZE, SIZE)
    with torch.inference_mode():
        model(images[:1, :, :, :].clone())
        return growth(lambda: model(images))


def growth_of_ours(arch: str, batch: int) -> int:
    precision = choose_precision("auto", torch.device("cpu"), training=False)
    model = t2t_vit.create_model(arch, image_size=SIZE)
    predictor = TorchPredictor(model, Preprocessing((SIZE, SIZE)), None, precision, kernels="auto")
    pixels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)
    predictor.logits(pixels[:1])
    return growth(lambda: predictor.logits(pixels))


def training_peak(model: nn.Module, batch: int, *, theirs: bool) -> int:
    """Of a training step in mixed precision, the authors' by their own; the first ones compile and make the moments."""
    device = torch.device("cuda")
    model.to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    targets = torch.randint(0, 1000, (batch,), device=device)
    before = torch.cuda.memory_allocated()
    autocast = partial(torch.autocast, "cuda", dtype=torch.bfloat16)
    step = authors_amp(model, images, targets) if theirs else as_shipped(model, images, targets, autocast)
    for _ in range(3):
        step()
    resting = torch.cuda.memory_allocated() - before
    return resting + (peak(step, device) or 0)


if __name__ == "__main__":
    main()
