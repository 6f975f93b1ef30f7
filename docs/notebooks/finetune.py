# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning in five minutes
# A network learns five kinds of clothes; then its weights learn five other kinds, from 40 images of each. The images
# are in the package (Fashion-MNIST); you need neither a GPU nor the internet. For your own images, set `data_url` to a
# folder that contains one folder of images for each class.

# %%
import logging
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist

logging.getLogger("matplotlib").setLevel(logging.WARNING)
WORK = Path("runs-of-the-notebook")

# %% [markdown]
# ## Two folders of images
# The layout that every command accepts: `FOLDER/CLASS/*.png`.


# %%
def write(folder: Path, classes: list[str], each: int) -> None:
    images = fashion_mnist("train", "L")
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        numbers = [n for n, target in enumerate(images.targets) if images.classes[target] == name][:each]
        for number in numbers:
            Image.fromarray(images.pixels[number]).save(folder / name / f"{number}.png")


write(WORK / "known", ["trouser", "dress", "sandal", "bag", "shirt"], each=200)
write(WORK / "new", ["t-shirt_top", "pullover", "coat", "sneaker", "ankle_boot"], each=40)

# %% [markdown]
# ## Weights to start from
# `verbose=True` shows the output of the command.

# %%
folders = {
    f"{name}_root_dir": str(WORK / name) for name in ("ckpt", "best_ckpt", "summary", "logs")
}  # everything stays beside the images
base = t2t_vit.train(
    "scratch", data_url=str(WORK / "known"), epochs=6, device="cpu", verbose=True, model_postfix="_base", **folders
)
print(f"{base.metrics.top1:.1%} of {base.metrics.count} validation images are right")

# %% [markdown]
# ## The new classes
# The network is inferred from the weights; the head is new, because the classes are.

# %%
run = t2t_vit.train(
    "finetune", data_url=str(WORK / "new"), pretrained=str(base.best), epochs=6, device="cpu", verbose=True,
    model_postfix="_new", **folders,
)  # fmt: skip
print(f"{run.metrics.top1:.1%} of {run.metrics.count} validation images are right")

# %%
epochs = [row for row in run.history if row["kind"] == "epoch"]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot([row["epoch"] for row in epochs], [row["train_loss"] for row in epochs], label="training")
measured = [row for row in epochs if row.get("val_loss") is not None]
left.plot([row["epoch"] for row in measured], [row["val_loss"] for row in measured], "o-", label="validation")
left.set(xlabel="epoch", title="loss")
left.legend()
right.plot([row["epoch"] for row in measured], [100 * row["val_top1"] for row in measured], "o-")
right.set(xlabel="epoch", title="top-1, %", ylim=(0, 100))
plt.show()

# %% [markdown]
# ## Use it

# %%
paths = sorted((WORK / "new").glob("*/*.png"))[::25]
predictor = run.predictor()
figure, grid = plt.subplots(1, len(paths), figsize=(1.4 * len(paths), 1.9), layout="constrained")
for axes, path, prediction in zip(grid, paths, predictor.predict([str(path) for path in paths]), strict=True):
    axes.imshow(Image.open(path), cmap="gray")
    axes.set_title(f"{prediction.name}\n{prediction.probability:.0%}", fontsize=8)
    axes.axis("off")
plt.show()
print(run.report)
