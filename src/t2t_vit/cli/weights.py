"""`t2t-vit weights show | convert`: what a file of weights holds, and the same weights in another format."""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from t2t_vit.errors import UserError

TEXT = """\
Usage: t2t-vit weights show FILE [--which ema|raw]
       t2t-vit weights convert FILE NEW_FILE [--format mindspore|safetensors|torch] [--which ema|raw]

show lists what FILE holds; convert writes its weights, bit for bit, as NEW_FILE, which is replaced if it is there.

FILE is told by its content: a checkpoint of t2t-vit, of the authors, mmpretrain or timm, any state dict of a T2T-ViT,
safetensors, a MindSpore .ckpt, a folder with model.safetensors, or the name of a network, which stands for the authors'
released weights (fetched once).

  --format FORMAT   what to write; without it the ending says: .ckpt MindSpore, .safetensors, .pth .pt .tar .bin torch
  --which COPY      ema or raw, where the file holds the moving average and the trained weights (default: the better)
  --help            show this text and end
"""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"weights: {message}; write t2t-vit weights show FILE, or convert FILE NEW_FILE")


def run(words: Sequence[str]) -> int:
    """Do what the line says.

    Raises:
        UserError: a mistake on the line, or a file that cannot be read or written.
    """
    if not words or "--help" in words or "-h" in words:
        print(TEXT, end="")
        return 0
    line = _read(words)
    if line.action == "show":
        from t2t_vit.weights.show import shown

        print(shown(line.source, line.which))
        return 0
    return _convert(line)


def _read(words: Sequence[str]) -> Namespace:
    parser = _Parser(prog="t2t-vit weights", add_help=False, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|convert")
    for name in ("show", "convert"):
        action = actions.add_parser(
            name, add_help=False, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter
        )
        action.add_argument("source", metavar="FILE")
        action.add_argument("--which", choices=("auto", "ema", "raw"), default="auto")
        if name == "convert":
            action.add_argument("target", metavar="NEW_FILE")
            action.add_argument("--format", metavar="FORMAT")
    return parser.parse_args(words)


def _convert(line: Namespace) -> int:
    from pathlib import Path

    from t2t_vit.cli.console import tell
    from t2t_vit.weights import convert_weights

    replaces = Path(line.target).exists()
    weights, written = convert_weights(line.source, line.target, format=line.format, which=line.which)
    if weights.config is not None or weights.classes is not None:
        tell(f"{line.source}: its configuration and class names stay behind: {line.target} holds weights only")
    if weights.state:
        tell(f"{line.source}: {len(weights.state)} entries of its training's state are left out")
    copy = f" ({weights.chosen})" if len(weights.copies) > 1 else ""
    more = ", in place of the file that was there" if replaces else ""
    print(f"{line.target}: {len(weights.tensors)} tensors{copy} written as {written}{more}")
    return 0
