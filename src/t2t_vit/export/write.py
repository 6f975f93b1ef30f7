"""A network -> a file that is proven before it appears."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2t_vit.errors import ProgramError
from t2t_vit.export.file_formats import find_format
from t2t_vit.export.job import PLAIN, ExportJob, Kind
from t2t_vit.export.verify import Agreement, verify, worst
from t2t_vit.fast import unfuse
from t2t_vit.files import failing_on_a_full_disk, files_made_in, place_together, working_folder
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.foreign_process import DEFAULT_LIMITS, Limits
from t2t_vit.inference.item import BATCH_SIZE
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT

_SPEED_SECONDS = 1.0


class DisagreementError(Exception):
    """A file that did not give the network's answers, and was removed."""

    def __init__(self, path: Path, found: Agreement | ProgramError) -> None:
        super().__init__(f"{path}: not written, because it does not agree with the network: {found}")


@dataclass(frozen=True)
class Exported:
    """A file and its proof; `agreement` is None where its runtime is missing, which `unverified` then says.

    `files` are all that were written: of some formats there is another beside the one at `path`.
    """

    path: Path
    agreement: Agreement | None
    unverified: str | None = None
    file_format: str = "ONNX"
    files: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Evidence:
    """Real images of the network's size, uint8 (N, in_chans, height, width).

    Attributes:
        images: to compare on, at least one.
        targets: their classes (N,), where they are the network's.
        calibration: to quantise by; the images to compare on where there are none.
    """

    images: Tensor
    targets: Tensor | None = None
    calibration: Tensor | None = None


def export_model(
    predictor: TorchPredictor,
    path: str | Path,
    *,
    arch: str,
    file_format: str,
    evidence: Evidence,
    kind: Kind = PLAIN,
    limits: Limits = DEFAULT_LIMITS,
) -> Exported:
    """Write the network of `predictor` to `path`, unless the file gives other answers than the network in float32.

    Args:
        predictor: brings network, preprocessing and class names; left as it is.
        arch: the network's name, for the metadata.
        file_format: a row of `export.file_formats`.
        limits: what the file's runtime may take while it is compared.

    Raises:
        UserError: the format cannot be written here, or the path cannot be written.
        DisagreementError: the file did not agree; what was at `path` before is kept.
    """
    row, path = find_format(file_format), Path(path)
    row.check(kind)
    network = copy.deepcopy(predictor.network)
    assert isinstance(network, T2TViT)
    unfuse(network).cpu().float()
    network.other_sizes = "resize" if kind.dynamic_size else None
    reference = TorchPredictor(network, predictor.preprocessing, predictor.classes)
    metadata = Metadata(
        arch,
        predictor.preprocessing,
        predictor.classes,
        network.num_classes,
        kind.precision,
        kind.batch or (0 if row.dynamic_batch else 1),
        kind.dynamic_size,
        kind.normalised_inside,
    )
    job = ExportJob(network, metadata, evidence.images if evidence.calibration is None else evidence.calibration)
    unverified = row.unverified()
    with working_folder(path.parent, "export") as folder:
        written = folder / path.name
        with failing_on_a_full_disk(path, folder, job.bytes_of_weights):
            row.write(job, written)
        try:
            agreement = None if unverified else _proof(row.open(written, limits), reference, evidence, kind)
        except ProgramError as error:
            raise DisagreementError(path, error) from error
        if agreement is not None and not agreement.is_acceptable:
            raise DisagreementError(path, agreement)
        made = sorted(files_made_in(folder), key=lambda file: file == written)  # the one that is named comes last
        files = tuple(path.with_name(file.name) for file in made)
        place_together(folder, files)
    return Exported(path, agreement, unverified, row.name, files)


def _proof(opened: Predictor, reference: TorchPredictor, evidence: Evidence, kind: Kind) -> Agreement:
    found = verify(opened, reference, evidence.images, precision=kind.precision, targets=evidence.targets)
    if not kind.dynamic_size:
        return found
    height, width = evidence.images.shape[2:]
    # Other sizes, of which one is no square and none a multiple of the strides.
    for size in ((height + 9, width + 35), (height * 2, width * 2)):
        stretched = torch.nn.functional.interpolate(evidence.images[:6].float(), size).byte()
        found = worst(found, verify(opened, reference, stretched, precision=kind.precision))
    return found


@dataclass(frozen=True)
class Speed:
    """Seconds until the first answer can be asked for, and images a second in batches of up to 32."""

    load_seconds: float
    images_per_second: float


def speed_of(exported: Exported, images: Tensor, limits: Limits = DEFAULT_LIMITS) -> Speed:
    """Load the file and run it for a second or so.

    Args:
        images: uint8 (N, in_chans, height, width).
        limits: what its runtime may take.
    """
    start = time.perf_counter()
    predictor = find_format(exported.file_format).open(exported.path, limits)
    load_seconds = time.perf_counter() - start
    batch = images[:BATCH_SIZE]
    predictor.logits(batch)
    start, done, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < _SPEED_SECONDS:
        predictor.logits(batch)
        done, elapsed = done + len(batch), time.perf_counter() - start
    return Speed(load_seconds, done / elapsed)
