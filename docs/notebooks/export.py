# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Export, and compare runtimes
# One network runs in PyTorch, packed for the processor, in ONNX Runtime and in OpenVINO. Do they agree, and how many
# images per second does each of them reach on this machine? The weights are random, which changes neither answer; for a
# real network, use your checkpoint.

# %%
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import t2t_vit
from t2t_vit.cli.main import main

WORK = Path("export-of-the-notebook")
WORK.mkdir(exist_ok=True)
torch.manual_seed(0)
model = t2t_vit.create_model("t2t_vit_7", num_classes=10, image_size=96).eval()
torch.save(model.state_dict(), WORK / "weights.pth")

# %% [markdown]
# ## Write the files
# `export` runs each file on images and compares its answers with the network's. A file that does not agree is deleted.

# %%
for file_format in ("ONNX", "OPENVINO"):
    code = main(
        ["export", "--pretrained", str(WORK / "weights.pth"), "--file_format", file_format, "--output", str(WORK)]
    )
    assert code == 0

# %% [markdown]
# ## Open each of them
# `t2t_vit.load` opens a checkpoint and every exported file in the same way.

# %%
predictors = {
    "PyTorch": t2t_vit.load(WORK / "weights.pth"),
    "PyTorch, packed": t2t_vit.load(WORK / "weights.pth", kernels="auto"),
    "PyTorch, packed, bfloat16": t2t_vit.load(WORK / "weights.pth", kernels="auto", amp_level="bf16"),
    "ONNX Runtime": t2t_vit.load(WORK / "t2t_vit_7.onnx"),
    "OpenVINO": t2t_vit.load(WORK / "t2t_vit_7.xml"),
}
batch = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8)

# %% [markdown]
# ## Do they agree?

# %%
expected = predictors["PyTorch"].logits(batch)
for name, predictor in predictors.items():
    logits = predictor.logits(batch)
    share = (logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean()
    print(f"{name:28} largest difference of a logit {(logits - expected).abs().max():.1e}, same class {share:.0%}")

# %% [markdown]
# ## How fast is each?
# The median of seven rounds. On a busy machine these numbers vary; `t2t-vit bench` and `benchmarks/compare.py` measure
# with more care.


# %%
def images_per_second(predictor, turns: int = 7) -> float:
    predictor.logits(batch)
    taken = []
    for _ in range(turns):
        start = time.perf_counter()
        predictor.logits(batch)
        taken.append(time.perf_counter() - start)
    return len(batch) / sorted(taken)[turns // 2]


rates = {name: images_per_second(predictor) for name, predictor in predictors.items()}
figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
bars = axes.barh(list(rates), list(rates.values()))
axes.bar_label(bars, fmt="%.0f", padding=3)
axes.invert_yaxis()
axes.margins(x=0.1)  # room for the numbers
axes.set_title("images per second, batches of 16")
plt.show()
