"""`t2t-vit export`: a checkpoint -> a file for another runtime, compared with the network before it is announced."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.cli import assembly
from t2t_vit.cli.config_file import to_yaml
from t2t_vit.cli.console import tell
from t2t_vit.cli.options import Options
from t2t_vit.cli.resolve import resolve
from t2t_vit.config import Config
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.embedded import fashion_mnist
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export.write import ENDINGS, DisagreementError, Exported, check_format, export_model
from t2t_vit.files import check_folder
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
    named = not {"dataset", "data_url", "val_dir"}.isdisjoint(options.line)
    return announce(lambda: export_weights(weights, config, Path(), notes, data_is_named=named))


def export_weights(
    weights: Weights, config: Config, folder: Path, notes: Sequence[str] = (), *, data_is_named: bool = True
) -> Exported:
    """Write the network as `folder`/ARCH with the ending of the format; `notes` are told first.

    Where nobody named the data on the line, a missing data set is no mistake: embedded images take its place.
    """
    told = list(notes)  # only when nothing can be refused any more: a mistake is one sentence
    rebuilt = rebuild(weights, config.to_dict(), told.append)
    predictor = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes)
    path = folder / f"{config.arch}{ENDINGS[config.file_format]}"
    images = _chosen_images(config, rebuilt.preprocessing, data_is_named, told.append)
    check_folder(folder, "the folder")
    for text in told:
        tell(text)
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


def real_images(images: ImageSet, preprocessing: Preprocessing) -> Tensor:
    """Some images to compare on, uint8 (N, C, H, W), broken ones left out.

    Raises:
        UserError: all of them are broken.
    """
    read: list[Tensor] = []
    for number in assembly.some_images(images, COMPARED):
        try:
            read.append(preprocessing(images.read(number)))
        except DecodeError as error:
            reason = f"{images.name(number)}: {error}"
    if not read:
        raise UserError(f"no validation image to compare on can be read: {reason}")
    return torch.stack(read)


def _chosen_images(config: Config, preprocessing: Preprocessing, named: bool, note: Callable[[str], None]) -> Tensor:
    """Of the validation images if there are any, else embedded ones."""
    try:
        if config.dataset != "ImageNet" or config.data_url:
            return real_images(assembly.validation_images(config), preprocessing)
    except UserError as error:
        if named:
            raise
        note(f"compared on embedded images, since {error}")
    return real_images(fashion_mnist("val", preprocessing.mode), preprocessing)
