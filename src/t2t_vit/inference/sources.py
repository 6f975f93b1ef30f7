"""What the user points at -> the image files in it."""

import os
from pathlib import Path

from t2t_vit.data.decode import EXTENSIONS
from t2t_vit.errors import UserError


def find_images(data: str) -> list[str]:
    """Paths of the images that `data` names, sorted, as the user gave it joined with each file's name.

    Args:
        data: one file, whatever its ending, or a folder, of which the files directly in it count that end in one of
            the decoder's endings in any case. Hidden files do not count.

    Raises:
        UserError: there is no such path, or no image in the folder.
    """
    try:
        names = _names(data)
    except OSError as error:
        raise UserError(f"DATA '{data}': cannot be read ({error.strerror})") from error
    # Path would rewrite what the user gave.
    return [data] if names is None else sorted(os.path.join(data, name) for name in names)  # noqa: PTH118


def _names(data: str) -> list[str] | None:
    """Names of the images in the folder `data`; None if it is a file."""
    folder = Path(data)
    if not data or not folder.exists():
        raise UserError(f"DATA '{data}': there is no such file or folder; name an image or a folder of images")
    if not folder.is_dir():
        return None
    if names := [entry.name for entry in os.scandir(data) if _is_image(entry)]:
        return names
    raise UserError(f"DATA '{data}': {_why_empty(folder)}")


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in EXTENSIONS:
        return False
    return not entry.is_dir()


def _why_empty(folder: Path) -> str:
    if not any(folder.iterdir()):
        return "the folder is empty"
    endings = ".png, .jpg, .jpeg or another image ending"
    if any(entry.is_dir() for entry in folder.iterdir()):
        return f"no file in the folder itself has {endings}; its subfolders are not searched, name one of them"
    return f"no file in it has {endings}"
