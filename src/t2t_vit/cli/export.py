"""`t2t-vit export`: a checkpoint -> a file for another runtime, compared with the network before it is announced."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.cli import assembly
from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.console import tell
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.config import Config
from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.write import ENDINGS, DisagreementError, Exported, check_format, export_model
from t2t_vit.inference.rebuild import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.weights import Weights, checkpoint_config, read_weights

COMPARED = 12


def run(options: Options) -> int:
    """Export into the current folder."""
    weights = read_weights(options.required_checkpoint())
    arch = options.line.get("arch")
    config, notes = resolve(options, checkpoint_config(weights, None if arch is None else str(arch)))
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    check_format(config.file_format)
    for text in notes:
        tell(text)
    return announce(lambda: export_weights(weights, config, Path()))


def export_weights(weights: Weights, config: Config, folder: Path) -> Exported:
    """Write the network as `folder`/ARCH with the ending of the format."""
    rebuilt = rebuild(weights, config.to_dict(), tell)
    predictor = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes)
    path = folder / f"{config.arch}{ENDINGS[config.file_format]}"
    images = real_images(config, rebuilt.preprocessing)
    return export_model(predictor, path, arch=config.arch, file_format=config.file_format, images=images)


def announce(export: Callable[[], Exported]) -> int:
    """Export, and say where the file is and how well it agrees; the exit code."""
    try:
        exported = export()
    except DisagreementError as error:
        tell(str(error))
        return 1
    print(exported.path)
    print(exported.agreement if exported.agreement is not None else exported.unverified)
    return 0


def real_images(config: Config, preprocessing: Preprocessing) -> Tensor:
    """Images to compare on, uint8 (N, C, H, W): of the validation folder if there is one, else embedded ones."""
    embedded = config.dataset == "ImageNet" and not config.data_url
    images: ImageSet = fashion_mnist("val", preprocessing.mode) if embedded else assembly.validation_images(config)
    return torch.stack([preprocessing(images.read(i)) for i in assembly.some_images(images, COMPARED)])
