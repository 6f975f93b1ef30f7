"""Runs a MINDIR file in a process of its own, for `mindir_predictor`: a program, not a module to import.

    python mindspore_runner.py FILE

It needs MindSpore and NumPy alone, not this package: MindSpore may live in another environment. Standard input and
output carry messages, each a line of JSON, then the bytes of an array if the line has a shape:

    out  {"mindspore": "2.10.0"}                           the file is loaded
    in   {"shape": [2, 3, 224, 224], "type": "float32"}    images
    out  {"shape": [2, 1000], "type": "float32"}           logits
    out  {"error": "..."}                                  in place of either; the process ends

It ends when its input does.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any


def main() -> int:
    """Load, then answer until there are no more images."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # MindSpore prints; what it prints must not get into the answers
    # The names of the modules in this file's folder must not hide others'.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    try:
        serve(sys.argv[1], answers)
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def serve(path: str, answers: IO[bytes]) -> None:
    """The whole conversation about one file."""
    import mindspore
    import numpy as np

    network = mindspore.nn.GraphCell(mindspore.load(path))
    send(answers, {"mindspore": mindspore.__version__})
    while line := sys.stdin.buffer.readline():
        head = json.loads(line)
        count = int(np.prod(head["shape"])) * np.dtype(head["type"]).itemsize
        pixels = np.frombuffer(sys.stdin.buffer.read(count), head["type"]).reshape(head["shape"])
        logits = network(mindspore.Tensor(pixels.copy())).asnumpy().astype("float32")
        send(answers, {"shape": logits.shape, "type": "float32"}, logits.tobytes())


def send(answers: IO[bytes], head: "dict[str, Any]", content: bytes = b"") -> None:
    """One message."""
    answers.write(json.dumps(head).encode() + b"\n" + content)
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main())
