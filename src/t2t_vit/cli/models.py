"""`t2t-vit models`: every network, and what it costs."""

from t2t_vit.model.cost import count_cost
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.rules import image_size_of
from t2t_vit.variants import VARIANTS

HEADINGS = ("name", "tokens", "parameters", "MACs", "weights", "training", "top-1", "authors' weights")
LAYOUT = "{:<19}{:<13}{:>11}{:>10}{:>10}{:>10}{:>8}  {}"

NOTES = """
Counted for one image of {} x {} pixels and {} classes.
MACs: multiply-adds of a forward pass, attention included. weights: in float32.
training: what a step keeps of an image for the backward pass, in float32, eager.
top-1: on ImageNet at 224 pixels, as the authors published it, not ours."""


def run(options: Options) -> int:
    """Print the table, a line as soon as it is counted."""
    config, _ = resolve(options)
    height, width = image_size_of(config)
    print(LAYOUT.format(*HEADINGS))
    for name, row in VARIANTS.items():
        cost = count_cost(name, (height, width), config.num_classes or 1000)
        published = f"{row.published_top1:.1f} %" if row.published_top1 else "-"
        print(
            LAYOUT.format(
                name,
                row.tokens,
                f"{cost.parameters / 1e6:.2f} M",
                f"{cost.macs / 1e9:.3f} G",
                f"{cost.weight_bytes / 1e6:.0f} MB",
                f"{cost.saved_bytes / 1e6:.0f} MB",
                published,
                row.weights_file or "-",
            ),
            flush=True,
        )
    print(NOTES.format(height, width, config.num_classes or 1000))
    return 0
