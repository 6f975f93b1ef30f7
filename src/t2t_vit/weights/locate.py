"""From what a user names to the file of weights: a file, a folder of the hub's layout, or the name of a network."""

from pathlib import Path

from t2t_vit.variants import VARIANTS


def find_file(path: str | Path) -> Path:
    """The file that `path` means; a file or folder of that name goes before a network of that name.

    Raises:
        UserError: the folder holds no weights, or a network's released weights cannot be had.
    """
    named = Path(path)
    if str(path) in VARIANTS and not named.exists():
        from t2t_vit.weights.release import released_file

        return released_file(str(path))
    if _is_folder(named):
        from t2t_vit.weights.folder import weights_file_in

        return weights_file_in(named)
    return named


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except ValueError:  # a NUL in the name
        return False
