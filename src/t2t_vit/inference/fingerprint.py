"""What the answers depend on beside the images: two runs with the same one may share their results."""

from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from t2t_vit.inference.predictor import Predictor
from t2t_vit.weights.location import find_file

_VERSION = 1


def fingerprint(path: str, predictor: Predictor, top_k: int, asked: Mapping[str, object]) -> dict[str, Any]:
    """Primitives, by the word that names them in a message.

    Args:
        path: what the predictor was loaded from; its content counts, not its name.
        asked: what else the user asked for that changes the answers.
    """
    return {
        "journal version": _VERSION,
        "checkpoint": _content_hash(path),
        "preprocessing": predictor.preprocessing.to_dict(),
        "list of classes": predictor.classes,
        "top_k": top_k,
        **asked,
    }


def _content_hash(path: str) -> str:
    whole = sha256()
    for file in _files(Path(path)):
        with file.open("rb") as content:
            whole.update(file_digest(content, "sha256").digest())
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix == ".xml":  # OpenVINO's weights lie beside their graph
        return [file for file in (path, path.with_suffix(".bin")) if file.is_file()]
    return [find_file(path)]
