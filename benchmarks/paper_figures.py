"""The figures of docs/explained/paper.md, drawn from a trained `t2t_vit_quickstart` and the embedded images.

    t2t-vit train quickstart --arch t2t_vit_quickstart --performer_drop 0 --epochs 10 --best_ckpt_root_dir paper
    python benchmarks/paper_figures.py paper/t2t_vit_quickstart/best.ckpt

Prints the numbers that the page quotes. On a CPU, in float32.
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import t2t_vit
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.inference.look import as_colours, look
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT
from t2t_vit.model.cost import count_cost
from t2t_vit.ops.performer import draw_features, performer_weights
from t2t_vit.variants import VARIANTS, SoftSplit

IMAGES = Path(__file__).parents[1] / "docs/images"
SHOWN = (15, 655, 1105, 1500)  # test images: four kinds of clothes
INK, FIRST, SECOND, QUIET = "#22272c", "#1f77b4", "#d9541e", "#9aa0a6"


def draw_soft_split(predictor: TorchPredictor) -> Figure:
    """Windows on an image, how many windows read each pixel, and what the stages make of four images."""
    model = network_of(predictor)
    figure = plt.figure(figsize=(8.6, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.1))
    windows, hard, soft = above.subplots(1, 3)
    split, side = model.variant.splits[0], model.image_size[0]
    image = shown_image(predictor, SHOWN[0])
    windows.imshow(image, cmap="gray")
    for number, colour in enumerate((FIRST, SECOND, "#2ca02c")):
        left, top = 8 + number * split.stride - split.padding - 0.5, 12 - split.padding - 0.5
        windows.add_patch(
            Rectangle((left, top), split.kernel, split.kernel, fill=False, edgecolor=colour, linewidth=1.8)
        )
    windows.set_title(
        f"three neighbouring windows of {split.kernel} x {split.kernel},\n{split.stride} pixels apart", fontsize=9
    )
    patches = SoftSplit(4, 4, 0)
    for axes, each, title in ((hard, patches, "patches (ViT)"), (soft, split, "soft split")):
        drawn = axes.imshow(readers(each, side), vmin=0, vmax=16, cmap="viridis")
        axes.set_title(f"{title}: windows that read a pixel", fontsize=9)
    grid = below.subplots(len(SHOWN), 4)
    titles = ("image", "after attention1", "after attention2", "tokens of the backbone")
    for row, number in zip(grid, SHOWN, strict=True):
        seen = look(predictor, np.asarray(test_set().pixels[number]))
        pictures = [
            shown_image(predictor, number),
            *(as_colours(stage).permute(1, 2, 0).numpy() for stage in seen.stages),
        ]
        for axes, picture, title in zip(row, pictures, titles, strict=True):
            axes.imshow(picture, cmap="gray")
            if number == SHOWN[0]:
                axes.set_title(f"{title}\n{picture.shape[0]} x {picture.shape[1]}", fontsize=9)
    without_ticks(figure)
    above.colorbar(drawn, ax=[hard, soft], shrink=0.8, ticks=[1, 4, 8, 12, 16])
    return figure


@torch.inference_mode()
def draw_performer(predictor: TorchPredictor) -> Figure:
    """What a token of the first stage looks at, exactly and by random features, and what either costs."""
    model = network_of(predictor)
    tokens = model.tokens_to_token
    figure, axes = plt.subplots(1, 4, figsize=(10.4, 2.7), layout="constrained", width_ratios=(1, 1, 1, 1.5))
    prepared = predictor.prepare(np.asarray(test_set().pixels[SHOWN[1]]))
    inputs = tokens.split0(predictor.preprocessing.normalize(prepared[None]))
    k, q, _ = tokens.attention1.kqv(tokens.attention1.norm1(inputs)).chunk(3, dim=-1)  # (1, 256, 32) each
    exact = (q @ k.mT).softmax(dim=-1)[0]  # (256, 256)
    kept = performer_weights(q, k, tokens.attention1.w)[0]
    rows, columns = tokens.split0.grid(prepared[None])
    place = 7 * columns + 8
    axes[0].imshow(shown_image(predictor, SHOWN[1]), cmap="gray")
    axes[0].plot(2 * (place % columns), 2 * (place // columns), "o", color=SECOND)
    axes[0].set_title("image, and one window", fontsize=9)
    for at, weights, title in (
        (1, exact, "softmax of the same\nqueries and keys"),
        (2, kept, "performer,\n16 random features"),
    ):
        axes[at].imshow(weights[place].view(rows, columns), cmap="magma")
        axes[at].set_title(title, fontsize=9)
    without_ticks(figure)
    dim = q.shape[-1]
    drawn = []
    torch.manual_seed(0)
    for count in (16, 32, 64, 128, 256, 512):
        features = torch.cat(
            [draw_features(min(count, dim), dim) * (dim / min(count, dim)) ** 0.5 for _ in range(max(1, count // dim))]
        )
        drawn.append((count, agreement(exact, performer_weights(q, k, features)[0])))
    print(
        "agreement (correlation of rows with the softmax), trained features:",
        round(agreement(exact, kept), 3),
        "drawn:",
        drawn,
    )
    counts = np.array([56, 112, 224, 448]) ** 2 // 16
    width, features_of_paper = 64, 32
    axes[3].set_axis_on()
    axes[3].loglog(counts, 2 * counts**2 * width / 1e9, "o-", color=QUIET, label="softmax: 2 N² d")
    axes[3].loglog(counts, 4 * counts * features_of_paper * width / 1e9, "o-", color=FIRST, label="performer: 4 N m d")
    axes[3].set_xticks(
        counts, [f"{count}\n{side} px" for count, side in zip(counts, (56, 112, 224, 448), strict=True)], fontsize=8
    )
    axes[3].minorticks_off()
    axes[3].set_title("billion multiply-adds of the first stage", fontsize=9)
    axes[3].legend(fontsize=8, frameon=False)
    print(
        "first stage at 224 px, G multiply-adds: softmax",
        2 * 3136**2 * width / 1e9,
        "performer",
        4 * 3136 * features_of_paper * width / 1e9,
    )
    return figure


@torch.inference_mode()
def draw_backbone(predictor: TorchPredictor) -> Figure:
    """Deep and narrow against shallow and wide, and what each block adds to the answer."""
    figure, (bars, blocks) = plt.subplots(1, 2, figsize=(8.6, 2.9), layout="constrained")
    names = ("t2t_vit_14", "t2t_vit_14_wide")
    labels = [f"{name}\n{VARIANTS[name].depth} blocks x {VARIANTS[name].dim}" for name in names]
    costs = [count_cost(name) for name in names]
    values = {
        "parameters, M": [cost.parameters / 1e6 for cost in costs],
        "multiply-adds,\nG": [cost.macs / 1e9 for cost in costs],
        "ImageNet top-1, %\n(published)": [VARIANTS[name].published_top1 for name in names],
    }
    for at, pair in enumerate(values.values()):
        top = max(pair)
        for side, (value, colour) in enumerate(zip(pair, (FIRST, QUIET), strict=True)):
            bars.bar(at + 0.4 * side, value / top, 0.36, color=colour, label=labels[side] if at == 0 else None)
            bars.text(at + 0.4 * side, value / top, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
    bars.set_xticks([at + 0.2 for at in range(len(values))], values, fontsize=8)
    bars.set_yticks([])
    bars.set_ylim(0, 1.45)
    bars.legend(fontsize=8, frameon=False, ncols=2, loc="upper center")
    for edge in ("top", "left", "right"):
        bars.spines[edge].set_visible(False)
    accuracies = by_block(predictor)
    print("top-1 when the answer is read after 0, 1, ... blocks:", [round(100 * value, 2) for value in accuracies])
    blocks.plot([100 * value for value in accuracies], "o-", color=FIRST)
    for at, value in enumerate(accuracies):
        blocks.annotate(
            f"{100 * value:.0f}", (at, 100 * value), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8
        )
    blocks.set_ylim(0, 105)
    blocks.set_xticks(range(len(accuracies)))
    blocks.set_xlabel("blocks before the head", fontsize=9)
    blocks.set_title("top-1 of the trained network, read early, %", fontsize=9)
    return figure


def by_block(predictor: TorchPredictor) -> list[float]:
    """Top-1 on the embedded test images where norm and head read the class token after 0, 1, ... blocks."""
    model, images = network_of(predictor), test_set()
    right = np.zeros(len(model.blocks) + 1)
    for indices in np.array_split(np.arange(len(images.targets)), 20):
        batch = torch.stack([predictor.prepare(np.asarray(images.pixels[index])) for index in indices])
        seen: list[Tensor] = []
        keep = partial(_keep, seen)
        hooks = [module.register_forward_pre_hook(keep) for module in (*model.blocks, model.norm)]
        model(predictor.preprocessing.normalize(batch))
        for hook in hooks:
            hook.remove()
        targets = torch.from_numpy(images.targets[indices])
        for at, tokens in enumerate(seen):
            right[at] += int((model.head(model.norm(tokens)[:, 0]).argmax(dim=1) == targets).sum())
    return [float(value) for value in right / len(images.targets)]


def _keep(seen: list[Tensor], _module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
    seen.append(inputs[0])


def agreement(exact: Tensor, other: Tensor) -> float:
    """Mean correlation of the rows of two attentions."""
    return float(np.mean([np.corrcoef(row, own)[0, 1] for row, own in zip(exact.numpy(), other.numpy(), strict=True)]))


def readers(split: SoftSplit, side: int) -> np.ndarray:
    """How many windows of the split hold each pixel of an image (side, side)."""
    rows, columns = split.grid(side, side)
    count = np.zeros((side + 2 * split.padding,) * 2)
    for row in range(rows):
        for column in range(columns):
            top, left = row * split.stride, column * split.stride
            count[top : top + split.kernel, left : left + split.kernel] += 1
    inner = slice(split.padding, split.padding + side)
    return count[inner, inner]


def network_of(predictor: TorchPredictor) -> T2TViT:
    assert isinstance(predictor.network, T2TViT)
    return predictor.network


def test_set():
    return fashion_mnist("val", "L")


def shown_image(predictor: TorchPredictor, number: int) -> np.ndarray:
    return predictor.prepare(np.asarray(test_set().pixels[number]))[0].numpy()


def without_ticks(figure: Figure) -> None:
    for axes in figure.findobj(Axes):
        axes.set_xticks([])
        axes.set_yticks([])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the figures (default: docs/images)")
    options = parser.parse_args()
    mpl.rcParams |= {"axes.edgecolor": QUIET, "text.color": INK, "font.size": 9}
    predictor = t2t_vit.load(options.checkpoint, device="cpu")
    assert isinstance(predictor, TorchPredictor)
    for name, draw in (("soft-split", draw_soft_split), ("performer", draw_performer), ("backbone", draw_backbone)):
        figure = draw(predictor)
        figure.savefig(options.output / f"paper-{name}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
