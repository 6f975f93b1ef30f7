"""Predictions by MindSpore, of MINDIR files.

MindSpore runs in a process of its own: it may crash, hang, and need another environment than PyTorch.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.files import parse_json
from t2t_vit.formats.mindir import read_mindir
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.installing import not_installed

VARIABLE = "T2T_VIT_MINDSPORE_PYTHON"
RUNNER = Path(__file__).with_name("mindspore_runner.py")
SECONDS = 600


class MindirPredictor(ExportedPredictor):
    """A `.mindir` file on the CPU, in a process of its own that ends with this object.

    Raises:
        UserError: MindSpore is missing, or the file is damaged or was not exported by this package.
        MindsporeError: MindSpore cannot load it.
    """

    def __init__(self, path: str | Path) -> None:
        python = mindspore_python()
        if python is None:
            raise UserError(f"{path}: {mindspore_missing()}")
        super().__init__(path, mindir_metadata(path))
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "model.mindir"  # MindSpore looks at the ending
            named.symlink_to(Path(path).absolute())
            self._process = MindsporeProcess(python, named)

    def run(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self._process.run(inputs.numpy()))


def mindir_metadata(path: str | Path) -> Metadata:
    """What a file says about itself; needs no MindSpore.

    Raises:
        UserError: it is damaged, or was not exported by this package.
    """
    try:
        return Metadata.from_strings(read_mindir(Path(path).read_bytes()).user_info)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: was not exported by t2t_vit, or is damaged ({error})") from error


class MindsporeError(UserError):
    """MindSpore refused a file, crashed over it, or did not answer: the file is not what it should be."""


def mindspore_python() -> str | None:
    """The Python to run MindSpore with: the one that the environment variable names, else this one if it has it.

    Raises:
        UserError: the named one is no program.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return sys.executable if importlib.util.find_spec("mindspore") else None
    if not (Path(named).is_file() and os.access(named, os.X_OK)):
        raise UserError(f"{VARIABLE} '{named}': is no program; name the python of an environment with MindSpore")
    return named


class MindsporeProcess:
    """A MINDIR file, loaded and waiting for images; the process ends with this object.

    Args:
        python: the interpreter of an environment that has MindSpore.
        path: the file; MindSpore insists on the ending `.mindir`.

    Attributes:
        version: MindSpore's.

    Raises:
        MindsporeError: it cannot load the file.
    """

    def __init__(self, python: str, path: Path, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [python, str(RUNNER), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._printed: list[bytes] = []
        reader = threading.Thread(target=_collect, args=(self._pipe("stderr"), self._printed), daemon=True)
        reader.start()
        self._end = weakref.finalize(self, _stop, self._process, reader)
        self.version = str(self._receive()[0]["mindspore"])

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Images (B, C, H, W) of the file's type -> logits (B, num_classes).

        Raises:
            MindsporeError: there is no answer, or one of another shape.
        """
        head = json.dumps({"shape": images.shape, "type": images.dtype.name}).encode()
        try:
            self._pipe("stdin").write(head + b"\n" + np.ascontiguousarray(images).tobytes())
            self._pipe("stdin").flush()
        except OSError as error:
            raise self._ended() from error
        answer, content = self._receive()
        shape = tuple(answer["shape"])
        if len(shape) != 2 or shape[0] != len(images):
            raise MindsporeError(f"MindSpore answered {len(images)} images with logits of the shape {shape}")
        return np.frombuffer(bytearray(content), np.float32).reshape(shape)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        watch = threading.Timer(self._seconds, self._process.kill)
        watch.start()
        try:
            line = self._pipe("stdout").readline()
            answer = parse_json(line) if line.endswith(b"\n") else None
            content = (
                self._pipe("stdout").read(4 * int(np.prod(answer["shape"]))) if answer and "shape" in answer else b""
            )
        finally:
            watch.cancel()
        if answer is None or len(content) != 4 * int(np.prod(answer.get("shape", (0,)))):
            raise self._ended()
        if "error" in answer:
            raise MindsporeError(f"MindSpore says: {_first_line(answer['error'])}")
        return answer, content

    def _ended(self) -> MindsporeError:
        """Why there is no answer."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return MindsporeError("MindSpore answered in a way that is not understood")
        last = b"".join(self._printed).decode(errors="replace").strip().splitlines()[-1:]
        reason = f"crashed (signal {-code})" if code < 0 else f"ended with code {code}"
        return MindsporeError(f"MindSpore {reason}{': ' + last[0][:300] if last else ''}")

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe


def _collect(pipe: IO[bytes], printed: list[bytes]) -> None:
    """Keep the last of what the process prints, so that it never waits for a reader."""
    with pipe:
        for line in pipe:
            printed.append(line)
            del printed[:-50]


def _stop(process: "subprocess.Popen[bytes]", reader: threading.Thread) -> None:
    process.kill()
    process.wait()
    reader.join()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not yet sent
                pipe.close()


def mindspore_missing() -> str:
    """The sentence on MindSpore that is not there."""
    return (
        f"{not_installed('MindSpore', 'mindspore')}, or name the Python of an environment that has it: "
        f"{VARIABLE}=/path/to/python"
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip(" -")), "")[:300]
