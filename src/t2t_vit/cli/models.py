"""`t2t-vit models`: every network, and what it costs."""

from t2t_vit.model.cost import Cost, count_cost
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.rules import image_size_of
from t2t_vit.tables import print_table
from t2t_vit.variants import RELEASES, VARIANTS, Variant

HEADINGS = ("name", "tokens", "parameters", "MACs", "weights", "training", "top-1", "authors' weights")

NOTES = """
Counted for one image of {} x {} pixels and {} classes.
MACs: multiply-adds of a forward pass, including attention. weights: in float32.
training: memory that a step keeps per image for the backward pass, in float32, eager.
top-1: on ImageNet at 224 pixels, published by the authors; not measured by us.
Other released weights, by name: {}."""


def run(options: Options) -> int:
    """Count every network and print the table."""
    config, _ = resolve(options)
    size, classes = image_size_of(config), config.num_classes or 1000
    rows = [_row(name, row, count_cost(name, size, classes)) for name, row in VARIANTS.items()]
    print_table(HEADINGS, rows, left=(0, 1, -1))
    print(NOTES.format(*size, classes, "; ".join(_further())))
    return 0


def _further() -> list[str]:
    """What the names stand for that are no network's."""
    return [
        f"{name}, {release.arch} {release.trained} ({release.published_top1:.1f} %, {release.file})"
        for name, release in RELEASES.items()
        if name not in VARIANTS
    ]


def _row(name: str, row: Variant, cost: Cost) -> list[str]:
    return [
        name,
        row.tokens,
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.macs / 1e9:.3f} G",
        f"{cost.weight_bytes / 1e6:.0f} MB",
        f"{cost.saved_bytes / 1e6:.0f} MB",
        f"{row.published_top1:.1f} %" if row.published_top1 else "-",
        row.weights_file or "-",
    ]
