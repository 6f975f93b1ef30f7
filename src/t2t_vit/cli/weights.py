"""`t2t-vit weights show | convert`: what a weights file holds, and the same weights in another format."""

from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.notes import print_line, tell
from t2t_vit.settings.command_line import Options
from t2t_vit.weights import convert_weights
from t2t_vit.weights.show import shown


def run(options: Options) -> int:
    """Print what a file holds, or write its weights in another format.

    Raises:
        UserError: a file that cannot be read or written, or an option without effect.
    """
    action, source, *target = options.words
    if action == "convert":
        return _convert(source, target[0], options)
    if "format" in options.extras:
        raise UserError("--format has no effect with show; leave it out")
    print(shown(source, options.extra("which")))
    return 0


def _convert(source: str, target: str, options: Options) -> int:
    replaces = Path(target).exists()
    asked = options.extras.get("format")
    weights, written = convert_weights(source, target, format=asked, which=options.extra("which"))
    if weights.config is not None or weights.classes is not None:
        tell(f"{source}: its configuration and class names are not copied: {target} holds weights only")
    if weights.state:
        tell(f"{source}: {len(weights.state)} entries of its training state are left out")
    copy = f" ({weights.chosen})" if len(weights.copies) > 1 else ""
    more = ", replacing the existing file" if replaces else ""
    print_line(f"{target}: {len(weights.tensors)} tensors{copy} written as {written}{more}")
    return 0
