"""Folders in the layout of the Hugging Face hub: `config.json` beside `model.safetensors`."""

from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.model.folder_config import CONFIG, FolderConfig, read_folder_config

# In the order of preference.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_file_in(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        UserError: there is none.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / f"{WEIGHTS_FILES[0]}.index.json").exists():
        raise UserError(f"{folder}: its weights are split into several files; save them as one model.safetensors")
    raise UserError(f"{folder}: is a folder without {' or '.join(WEIGHTS_FILES)}; name the weights file in it")


def folder_config(folder: Path) -> FolderConfig:
    """What `config.json` says, or nothing where there is none.

    Raises:
        UserError: it cannot be read; see `read_folder_config`.
    """
    return read_folder_config(folder / CONFIG) if (folder / CONFIG).is_file() else FolderConfig()
