# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Embeddings and neighbours
# The head of the network gets one vector for each image: similar images have similar vectors. First a small network
# is trained on images of the package; if you have a checkpoint, load it instead with `t2t_vit.load(PATH)`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist

WORK = Path("runs-of-the-notebook")
folders = {f"{name}_root_dir": str(WORK / name) for name in ("ckpt", "best_ckpt", "summary", "logs")}
run = t2t_vit.train(
    "quickstart", epochs=4, train_num_samples=4000, device="cpu", verbose=True, model_postfix="_embed", **folders
)
predictor = run.predictor()
images = fashion_mnist("val", "L")

# %% [markdown]
# ## A vector for each image


# %%
@torch.inference_mode()
def embed(numbers: list[int]) -> torch.Tensor:
    model, vectors = predictor.network, []
    for start in range(0, len(numbers), 100):
        batch = torch.stack([predictor.prepare(images.pixels[number]) for number in numbers[start : start + 100]])
        tokens = model.forward_features(predictor.preprocessing.normalize(batch))
        vectors.append(model.forward_head(tokens, pre_logits=True))
    return torch.nn.functional.normalize(torch.cat(vectors), dim=1)


numbers = list(range(0, len(images.targets), 2))
vectors = embed(numbers)
targets = torch.tensor([int(images.targets[number]) for number in numbers])
vectors.shape

# %% [markdown]
# ## Nearest neighbours
# The cosine between two vectors says how similar two images are. How often does the nearest neighbour have the same
# class?

# %%
similar = vectors @ vectors.T
similar.fill_diagonal_(-1)
nearest = similar.argsort(dim=1, descending=True)[:, :6]
print(f"{(targets[nearest[:, 0]] == targets).float().mean():.1%} of the nearest neighbours have the class of the image")
figure, grid = plt.subplots(4, 7, figsize=(8, 4.8), layout="constrained")
for row, at in zip(grid, (20, 330, 555, 870), strict=True):
    for axes, other in zip(row, [at, *nearest[at].tolist()], strict=True):
        axes.imshow(images.pixels[numbers[other]], cmap="gray")
        axes.set_title("image" if other == at else f"{similar[at, other]:.2f}", fontsize=8)
        axes.axis("off")
plt.show()

# %% [markdown]
# ## A map of all classes
# Each point is an image, drawn along the two directions in which the vectors vary most.

# %%
centred = vectors - vectors.mean(dim=0)
_, _, directions = torch.linalg.svd(centred, full_matrices=False)
places = centred @ directions[:2].T
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
for target, name in enumerate(images.classes):
    chosen = places[targets == target]
    axes.scatter(chosen[:, 0], chosen[:, 1], s=6, label=name.replace("_", " "), color=plt.cm.tab10(target))
axes.legend(fontsize=7, markerscale=2)
axes.set(xticks=[], yticks=[])
plt.show()
