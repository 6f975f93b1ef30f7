# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explain a prediction
# Which parts of an image decide, what each stage computes, and which mistakes are the most confident. First a small
# network is trained on images of the package; if you have a checkpoint, set `checkpoint` to its path instead.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.inference.look import as_colours, look

WORK = Path("runs-of-the-notebook")
folders = {f"{name}_root_dir": str(WORK / name) for name in ("ckpt", "best_ckpt", "summary", "logs")}
run = t2t_vit.train(
    "quickstart",
    arch="t2t_vit_quickstart",  # has attention in the T2T module, which is shown below
    performer_drop=0.0,
    epochs=4,
    train_num_samples=4000,
    device="cpu",
    verbose=True,
    model_postfix="_explain",
    **folders,
)
checkpoint = run.best
images = fashion_mnist("val", "L")

# %% [markdown]
# ## Where the answer looks
# Attention rollout multiplies the attention of all blocks: the share of the answer that comes from each token. The
# colours are the three directions in which the features of a stage vary most.

# %%
predictor = t2t_vit.load(checkpoint)
figure, grid = plt.subplots(3, 5, figsize=(9, 5.4), layout="constrained")
for row, number in zip(grid, (655, 1105, 1700), strict=True):
    seen = look(predictor, images.pixels[number])
    stages = [as_colours(stage).permute(1, 2, 0).numpy() for stage in seen.stages]
    shown = [seen.image[0].numpy(), *stages, seen.rollout.numpy()]
    titles = [
        f"{seen.prediction.name} {seen.prediction.probability:.0%}",
        "attention1",
        "attention2",
        "tokens",
        "rollout",
    ]
    for axes, picture, title in zip(row, shown, titles, strict=True):
        axes.imshow(picture, cmap="gray" if title != "rollout" else "magma")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
plt.show()

# %% [markdown]
# ## Confident and wrong
# The most confident mistakes say more about a network, or about the labels, than its accuracy does.

# %%
numbers = np.arange(0, len(images.targets), 4)
answers = predictor.predict([images.pixels[number] for number in numbers])
wrong = [
    (answer, number) for answer, number in zip(answers, numbers, strict=True) if answer.index != images.targets[number]
]
wrong.sort(key=lambda pair: -pair[0].probability)
print(f"{1 - len(wrong) / len(numbers):.1%} of {len(numbers)} images are right")
figure, row = plt.subplots(1, 6, figsize=(9, 2.1), layout="constrained")
for axes, (answer, number) in zip(row, wrong, strict=False):
    axes.imshow(images.pixels[number], cmap="gray")
    true = images.classes[images.targets[number]]
    axes.set_title(f"{answer.name} {answer.probability:.0%}\nis {true}", fontsize=8)
    axes.axis("off")
plt.show()

# %% [markdown]
# ## What attends to what
# `attention_maps` gives the weights of any block, without patching the network.

# %%
import torch

model = predictor.network
prepared = predictor.preprocessing.normalize(predictor.prepare(images.pixels[655])[None])
with t2t_vit.attention_maps(model, [0, -1]) as maps, torch.inference_mode():
    model(prepared)
figure, (first, last) = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
for axes, place, title in ((first, 0, "first block"), (last, -1, "last block")):
    axes.imshow(maps[place][0].mean(dim=0), cmap="magma")
    axes.set(title=f"{title}, mean of the heads", xlabel="to token", ylabel="from token")
plt.show()
