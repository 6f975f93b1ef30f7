"""Files of `torch.save`, opened without running anything that lies in them."""

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2t_vit.errors import UserError

_DTYPES = "?bBhHiIlLqQefdg"


def read_torch_file(path: str | Path) -> Any:
    """Whatever was saved: tensors in containers of plain values, on the CPU.

    Beyond torch's own list of harmless types only `argparse.Namespace` and NumPy's scalars are let in, since the
    authors' training script saves its arguments and its best accuracy beside the weights. Tensors of a zip are mapped
    into memory, so that parts that nobody looks at (an optimizer's state) cost nothing.

    Raises:
        UserError: the file is damaged, or holds other Python objects, whose loading could run code.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except MemoryError:
        raise
    except Exception as error:  # bytes of unknown origin can fail in any way
        raise UserError(f"{path}: {_explain(str(error))}") from error


def _harmless() -> list[Any]:
    """What may be built beside tensors. NumPy's function for scalars changed its home between versions 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(code)) for code in _DTYPES},
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _is_zip(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _explain(message: str) -> str:
    if found := re.search(r"GLOBAL (\S+)", message):
        return (
            f"holds a Python object ({found[1]}), and loading one could run code, so it is refused; "
            "save the state dict alone, with torch.save(model.state_dict(), path)"
        )
    if "TorchScript" in message:
        return "is a TorchScript program, not weights; save the state dict with torch.save(model.state_dict(), path)"
    return "is not a checkpoint that can be read: it is cut short, damaged, or not written by torch.save"
