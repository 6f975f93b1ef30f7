"""The answer to each image of an evaluation, in a file: what `compare` pairs with the answers of another run."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write, open_regular, reason_of

if TYPE_CHECKING:  # reading needs neither torch nor images
    from t2t_vit.data.images import ImageSet
    from t2t_vit.evaluation.outcomes import Outcomes

# image is its fingerprint; target and predicted are class numbers, predicted -1 without an answer.
ANSWER = np.dtype([("image", "<u8"), ("target", "<i4"), ("predicted", "<i4"), ("confidence", "<f4")])
MOST_IMAGES = 50_000_000  # of a file that is read: 1 GB


def write_answers(path: Path, outcomes: "Outcomes", images: "ImageSet") -> None:
    """Write `outcomes`, 20 bytes an image, as a NumPy file of rows `ANSWER`.

    Raises:
        UserError: the file cannot be written.
    """
    from t2t_vit.data.image_fingerprints import image_fingerprints

    numbers = [outcomes.number_of(row) for row in range(len(outcomes))]
    rows = np.empty(len(numbers), ANSWER)
    rows["image"] = image_fingerprints(images, numbers)
    rows["target"], rows["predicted"] = outcomes.target.numpy(), outcomes.predicted.numpy()
    rows["confidence"] = outcomes.confidence.numpy()
    content = io.BytesIO()  # NumPy's own writer of files does not say why one cannot be written
    npy.write_array(content, rows, allow_pickle=False)
    with atomic_write(path, size=content.getbuffer().nbytes) as file:
        file.write(content.getbuffer())


def read_answers(path: Path) -> NDArray[np.void]:
    """The rows (N,) of a file that `write_answers` wrote, sorted by image.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        with open_regular(path) as file:
            if npy.read_magic(file) != (1, 0):
                raise ValueError("it is of another version")
            shape, _, kind = npy.read_array_header_1_0(file)
            if kind != ANSWER or len(shape) != 1 or not 0 < shape[0] <= MOST_IMAGES:
                raise ValueError(f"it holds {kind} of shape {shape}"[:100])
            content = file.read(shape[0] * ANSWER.itemsize + 1)
    except Exception as error:  # NumPy's reader of the header fails in many ways, tokenize.TokenError among them
        raise _damaged(path, reason_of(error)) from error
    if len(content) != shape[0] * ANSWER.itemsize:
        raise _damaged(path, "it was cut short, or is longer than it says")
    rows = np.frombuffer(content, ANSWER)
    rows = rows[np.argsort(rows["image"], kind="stable")]
    if (rows["image"][1:] == rows["image"][:-1]).any():
        raise _damaged(path, "it holds an image twice")
    return rows


def _damaged(path: Path, reason: str) -> UserError:
    reason = " ".join(reason.split())
    return UserError(f"{path}: is not a file of answers ({reason}); remove it to compare without it")
