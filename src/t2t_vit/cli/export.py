"""`t2t-vit export`: a checkpoint -> files for other runtimes, compared with the network before they are announced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from t2t_vit.assembly import build
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.fashion_mnist import fashion_mnist
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import DataError, UserError, printable
from t2t_vit.export.file_formats import FORMATS, find_format
from t2t_vit.export.job import Kind
from t2t_vit.export.write import DisagreementError, Evidence, Exported, export_model, speed_of
from t2t_vit.files import check_folder
from t2t_vit.inference.exported import ExportPrecision
from t2t_vit.inference.foreign_process import Limits
from t2t_vit.inference.load import rebuild
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.notes import print_line, tell
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config
from t2t_vit.tables import print_table
from t2t_vit.weights import Weights, checkpoint_config, read_weights

CALIBRATION = 200
ALL = "all"
COLUMNS = ("format", "size", "load", "images/s", "difference", "top-1", "file")
_EMPTY = [""] * (len(COLUMNS) - 2)  # for rows with only a name and a sentence
COMPARED: dict[ExportPrecision, int] = {"fp32": 12, "fp16": 100}
# int8 is judged by its answers, so it needs many images: 2,000 small ones, or at least 200 large ones.
INT8_PIXELS, INT8_MOST, INT8_LEAST = 2000 * 64 * 64, 2000, 200
Note = Callable[[str], None]
Pair = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Wish:
    """The options of the command: what kind of file, where, and how many images int8 is measured on."""

    kind: Kind = field(default_factory=Kind)
    folder: Path = Path()
    calibration: int = CALIBRATION


def run(options: Options) -> int:
    """Export into the current folder, or into `output`."""
    weights = read_weights(options.required_checkpoint())
    arch = options.line.get("arch")
    config, notes = resolve(options, checkpoint_config(weights, None if arch is None else str(arch)))
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    wish = _wish(options)
    if config.file_format != ALL:
        find_format(config.file_format).check(wish.kind)
    named = not {"dataset", "data_url", "val_dir"}.isdisjoint(options.line)
    if config.file_format == ALL:
        return export_all(weights, config, wish, notes, data_is_named=named)
    return announce(lambda: export_weights(weights, config, wish, notes, data_is_named=named))


def export_weights(
    weights: Weights, config: Config, wish: Wish, notes: Sequence[str] = (), *, data_is_named: bool = True
) -> Exported:
    """Write the network as ARCH with the ending of the format; `notes` are printed first.

    Where nobody named the data on the command line, a missing data set is no mistake: embedded images take its place.
    """
    predictor, evidence = _prepared(weights, config, wish, notes, data_is_named)
    return _written(predictor, config, config.file_format, wish, evidence)


def export_all(
    weights: Weights, config: Config, wish: Wish, notes: Sequence[str] = (), *, data_is_named: bool = True
) -> int:
    """Write every format that can be written here, and print a table; 1 where a file disagrees or a writer fails."""
    predictor, evidence = _prepared(weights, config, wish, notes, data_is_named)
    code, rows = 0, []
    try:
        for name in FORMATS:
            tell(f"{name} ...")
            try:
                rows.append(_row(_written(predictor, config, name, wish, evidence), evidence, config))
            except UserError as error:
                rows.append([name, *_EMPTY, f"not written: {error}"])
            except DisagreementError as error:
                code = 1
                rows.append([name, *_EMPTY, str(error)])
            except Exception as error:  # of a library that writes or runs the format; the other formats continue
                code = 1
                reason = printable(" ".join(str(error).split()))[:200]
                rows.append([name, *_EMPTY, f"not written, as conversion failed: {type(error).__name__}: {reason}"])
    finally:  # also after a stop: the files that were written remain
        print_table(COLUMNS, rows, left=(0, -1))
    return code


def announce(export: Callable[[], Exported]) -> int:
    """Export, and say where the file is and how well it agrees; the exit code."""
    try:
        exported = export()
    except DisagreementError as error:
        tell(str(error))
        return 1
    print_line(str(exported.path))
    print_line(str(exported.agreement if exported.agreement is not None else exported.unverified))
    return 0


def _prepared(
    weights: Weights, config: Config, wish: Wish, notes: Sequence[str], data_is_named: bool
) -> tuple[TorchPredictor, Evidence]:
    pending = list(notes)  # printed only after all checks, so that a mistake is one sentence
    rebuilt = rebuild(weights, config.to_dict(), pending.append)
    evidence = gather(
        config,
        rebuilt.preprocessing,
        rebuilt.classes,
        precision=wish.kind.precision,
        calibration=wish.calibration,
        data_is_named=data_is_named,
        note=pending.append,
    )
    check_folder(wish.folder, "the folder")
    for text in pending:
        tell(text)
    return TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes), evidence


def _written(predictor: TorchPredictor, config: Config, name: str, wish: Wish, evidence: Evidence) -> Exported:
    precision = wish.kind.precision
    marked = config.arch if precision == "fp32" else f"{config.arch}_{precision}"
    path = wish.folder / f"{marked}{find_format(name).ending}"
    return export_model(
        predictor,
        path,
        arch=config.arch,
        file_format=name,
        evidence=evidence,
        kind=wish.kind,
        limits=Limits.of(config),
    )


def _row(exported: Exported, evidence: Evidence, config: Config) -> list[str]:
    """Cells of the columns `COLUMNS`."""
    size = f"{exported.size / 1e6:.1f} MB"
    found = exported.agreement
    if found is None:
        return [exported.file_format, size, *_EMPTY[1:], f"{exported.path} ({exported.unverified})"]
    speed = speed_of(exported, evidence.images, Limits.of(config))
    return [
        exported.file_format,
        size,
        f"{speed.load_seconds:.2f} s",
        f"{speed.images_per_second:,.1f}",
        f"{found.largest_difference:.1e}",
        f"{found.top1_agreement:.1%}",
        str(exported.path),
    ]


def _wish(options: Options) -> Wish:
    """The command's own options, checked.

    Raises:
        UserError: options that mean nothing together.
    """
    precision = cast(ExportPrecision, options.extra("precision"))
    if "calibration" in options.extras and precision != "int8":
        raise UserError(f"--calibration has no effect with --precision {precision}; leave it out")
    kind = Kind(
        precision, options.extra("batch"), options.extra("dynamic_size"), options.extra("preprocessing") == "inside"
    )
    return Wish(kind, Path(options.extra("output")), options.extra("calibration"))


def gather(
    config: Config,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    *,
    precision: ExportPrecision,
    calibration: int,
    data_is_named: bool,
    note: Note,
) -> Evidence:
    """Of the validation images if there are any, else embedded ones; to calibrate on, training images if there are.

    Args:
        classes: of the network; the images' own count only where they are the same.
        data_is_named: a missing data set is the user's mistake, and not made up for by embedded images.

    Raises:
        UserError: no image can be read.
    """
    count = _compared(precision, preprocessing)
    images, training = _sets(config, preprocessing, data_is_named, note)
    compared, targets = real_images(images, preprocessing, count)
    known = targets if classes is not None and tuple(images.classes) == classes else None
    if precision != "int8":
        return Evidence(compared, known)
    note(f"int8: calibrated on {calibration} images, compared on {len(compared):,}")
    return Evidence(compared, known, real_images(training(), preprocessing, calibration)[0])


def real_images(images: ImageSet, preprocessing: Preprocessing, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images, uint8 (N, C, H, W), and their classes (N,); broken ones are left out.

    Raises:
        UserError: all of them are broken.
    """
    read: list[Tensor] = []
    targets: list[int] = []
    for number in build.some_images(images, count):
        try:
            read.append(preprocessing(images.read(number)))
            targets.append(int(images.targets[number]))
        except DecodeError as error:
            reason = f"{images.name(number)}: {error}"
    if not read:
        raise UserError(f"no validation image can be read for the comparison: {reason}")
    return torch.stack(read), torch.tensor(targets)


def _compared(precision: ExportPrecision, preprocessing: Preprocessing) -> int:
    if precision in COMPARED:
        return COMPARED[precision]
    height, width = preprocessing.image_size
    return min(INT8_MOST, max(INT8_LEAST, INT8_PIXELS // (height * width)))


def _sets(
    config: Config, preprocessing: Preprocessing, named: bool, note: Note
) -> tuple[ImageSet, Callable[[], ImageSet]]:
    """The images to compare on, and those to calibrate on, which are opened only where they are asked for."""
    try:
        if config.dataset != "ImageNet" or config.data_url:
            images = build.validation_images(config)
            return images, lambda: _training_images(config, images)
    except DataError as error:
        if named:
            raise
        note(f"compared on embedded images, because {error}")
    mode = preprocessing.mode
    return fashion_mnist("val", mode), lambda: fashion_mnist("train", mode)


def _training_images(config: Config, otherwise: ImageSet) -> ImageSet:
    try:
        return build.training_images(config, lambda _: None)[0]
    except DataError:
        return otherwise
