"""The model card of a saved network: `README.md` as the hub reads it. It says what is known, and no more."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2t_vit.errors import UserError, printable
from t2t_vit.files import read_at_most

if TYPE_CHECKING:
    from t2t_vit.model.t2t_vit import T2TViT

CARD = "README.md"
_LONGEST = 2**20  # bytes
WRITTEN_HERE = "<!-- Written by t2t_vit. Remove this line to keep your changes when the network is saved again. -->"
# What `Metrics` calls them -> what the hub does, and how they are shown.
METRICS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "top5": ("accuracy", "top-5 accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "loss": ("loss", "cross-entropy"),
}
_MOST_CLASSES = 100


def card_of(
    model: "T2TViT",
    source: str,
    *,
    classes: Sequence[str] | None,
    metrics: Mapping[str, float] | None = None,
    dataset: str = "",
    license: str = "",
) -> str:
    """The card's text.

    Args:
        source: what `from_pretrained` opens: the folder's name (no path, which may say whose it is) or "owner/name".
        classes: their names, in the order of the logits.
        metrics: numbers called as in `METRICS`, shares between 0 and 1, and the `count` of images, as
            `Metrics.numbers()` gives them.
        dataset: what they were measured on; without it they are in the text but not in the header, which needs a name.
        license: the weights' licence as the hub writes it, such as "apache-2.0".

    Raises:
        UserError: a metric has another name.
    """
    from huggingface_hub import EvalResult, ModelCardData

    numbers = {name: value for name, value in (metrics or {}).items() if name != "count"}
    for name in numbers:
        if name not in METRICS:
            raise UserError(f"metrics: {name!r} is not one of {', '.join(METRICS)}")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="image-folder",
            dataset_name=printable(dataset),
            metric_type=METRICS[name][0],
            metric_name=METRICS[name][1],
            metric_value=float(value),
        )
        for name, value in numbers.items()
        if dataset
    ]
    header = ModelCardData(
        library_name="t2t_vit",
        pipeline_tag="image-classification",
        tags=["image-classification", "t2t-vit", "vision-transformer"],
        license=license or None,
        model_name=model.name if results else None,
        eval_results=results or None,
    ).to_yaml(line_break="\n")
    height, width = model.image_size
    colours = {1: "grey", 3: "RGB"}.get(model.in_chans, f"{model.in_chans} channels")
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    parts = [
        f"---\n{header}\n---\n{WRITTEN_HERE}\n# {model.name}",
        f"A Tokens-to-Token Vision Transformer ([arXiv 2101.11986](https://arxiv.org/abs/2101.11986)), "
        f"{parameters:.1f} million parameters, for images of {height} x {width} pixels ({colours}), "
        f"{model.num_classes} classes.",
        f'```python\nimport t2t_vit\n\nmodel = t2t_vit.from_pretrained("{printable(source)}")\n```\n\n'
        "Preprocessing and class names are in `config.json`.",
        _measured(numbers, dataset, (metrics or {}).get("count")),
        _named(classes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def keeps_own_card(folder: Path) -> bool:
    """Whether there is a card that somebody wrote or changed: it stays."""
    try:
        return WRITTEN_HERE.encode() not in read_at_most(folder / CARD, _LONGEST)
    except FileNotFoundError:
        return False
    except OSError:  # no regular file, or longer than any card of ours
        return True


def _measured(numbers: Mapping[str, float], dataset: str, count: float | None) -> str:
    if not numbers:
        return ""
    where = f" on {printable(dataset)}" if dataset else ""
    rows = [f"| {METRICS[name][1]} | {value:.4f} |" for name, value in numbers.items()]
    images = [f"| images | {count:,.0f} |"] if count else []
    return "\n".join([f"## Measured{where}", "", "| | |", "|---|---|", *rows, *images])


def _named(classes: Sequence[str] | None) -> str:
    if not classes:
        return ""
    shown = ", ".join(f"`{printable(name).replace('`', chr(39))}`" for name in classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return f"## Classes\n{shown}{more}"
