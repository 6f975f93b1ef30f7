"""Peak memory of one contestant above its loaded model, in bytes, printed; run by compare.py in a process of its own.

On a CPU the growth of resident memory over a forward pass (the kernel's high-water mark), on a GPU the allocator's peak
over training steps.
"""

import os
import sys
import threading
from pathlib import Path

import torch
from reference import authors_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_device, choose_precision

SIZE = 384


def main() -> None:
    checkout, who, arch, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    device = choose_device("auto")
    if device.type == "cuda":
        print(training_peak(authors_model(checkout, arch) if who == "theirs" else t2t_vit.create_model(arch), batch))
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
    predictor = TorchPredictor(model, Preprocessing((SIZE, SIZE)), None, precision)
    pixels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)
    predictor.logits(pixels[:1])
    return growth(lambda: predictor.logits(pixels))


def growth(run: "object") -> int:
    """Bytes by which resident memory rose at most during `run()`."""
    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], resident())
            done.wait(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()  # type: ignore[operator]
    done.set()
    watcher.join()
    return max(highest[0], resident()) - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def training_peak(model: nn.Module, batch: int) -> int:
    device = torch.device("cuda")
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, 224, 224, device=device)
    targets: Tensor = torch.randint(0, 1000, (batch,), device=device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(images)
        cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
