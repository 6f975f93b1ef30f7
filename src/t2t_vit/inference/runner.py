"""Runs an exported file in a process of its own, for `foreign_process`: a program.

    python runner.py KIND FILE SETTINGS

It needs NumPy and the runtime of the file alone, not this package: MindSpore may live in another environment. SETTINGS
is JSON: `memory` (bytes of data that the process may hold; 0: no limit), `threads` and `bf16`. Standard input and
output carry messages, each a line of JSON, then the bytes of an array if the line has a shape:

    out  {"ready": true}                                   the runtime is imported; what follows depends on the file
    out  {"version": "2.10.0", "metadata": {...}}          the file is loaded; what it says of itself
    in   {"shape": [2, 3, 224, 224], "type": "float32", "bytes": N, "answer": [2, 1000]}    images
    out  {"shape": [2, 1000], "type": "float32"}           logits
    out  {"shape": [2, 9], ...}                            without numbers: it is not what was asked for
    out  {"error": "..."}                                  in place of either; the process ends

It ends when its input does, whatever it computes.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

INPUT, OUTPUT, METADATA = "images", "logits", "t2t_vit"
ONNX_ERRORS_ONLY = 3  # of its levels of log lines


class Loaded(NamedTuple):
    """A file that is ready: its runtime's version, its metadata, and what computes NumPy's arrays."""

    version: str
    metadata: "dict[str, str] | str | None"
    run: Callable[[Any], Any]


def main() -> int:
    """Load, then answer until there are no more images."""
    kind, path, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes print; their output must not get into the answers
    limit_memory(settings["memory"])
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report each use to its makers
    # Modules in the folder of this file must not hide others of the same name.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    requests: queue.SimpleQueue[tuple[dict[str, Any], bytearray]] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(requests,), daemon=True).start()
    modules, load = KINDS[kind]
    try:
        for module in modules:
            import_module(module)
        send(answers, {"ready": True})
        serve(load(path, settings), requests, answers)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {error}"})
    return 1


def limit_memory(size: int) -> None:
    """Let allocations beyond `size` bytes fail; Linux alone keeps such a limit."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if size and (hard == resource.RLIM_INFINITY or size < hard):
            resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def listen(requests: "queue.SimpleQueue[tuple[dict[str, Any], bytearray]]") -> None:
    """Take what is asked. Where nobody can ask any more, the process ends, also in the midst of a batch."""
    source = cast(BufferedReader, sys.stdin.buffer)
    while line := source.readline():
        head = json.loads(line)
        content = bytearray(head["bytes"])
        if source.readinto(content) < len(content):
            break
        requests.put((head, content))
    if sys.platform != "win32" and hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # and what was started here
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def serve(loaded: Loaded, requests: "queue.SimpleQueue[tuple[dict[str, Any], bytearray]]", answers: IO[bytes]) -> None:
    """The whole conversation about one file."""
    import numpy as np

    send(answers, {"version": loaded.version, "metadata": loaded.metadata})
    while True:
        head, content = requests.get()
        logits = np.ascontiguousarray(loaded.run(np.frombuffer(content, head["type"]).reshape(head["shape"])))
        if logits.dtype.kind not in "fiub":
            raise TypeError(f"the answer is of the type {logits.dtype}")
        # An answer of another shape may be of gigabytes, and nobody reads it.
        numbers = logits.tobytes() if list(logits.shape) == head["answer"] else b""
        send(answers, {"shape": logits.shape, "type": logits.dtype.name}, numbers)


def send(answers: IO[bytes], head: "dict[str, Any]", content: bytes = b"") -> None:
    """One message."""
    answers.write(json.dumps(head).encode() + b"\n" + content)
    answers.flush()


def load_onnx(path: str, settings: "dict[str, Any]") -> Loaded:
    """By ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONNX_ERRORS_ONLY
    options.intra_op_num_threads = settings["threads"]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    return Loaded(onnxruntime.__version__, metadata, lambda images: session.run([OUTPUT], {INPUT: images})[0])


def load_openvino(path: str, settings: "dict[str, Any]") -> Loaded:
    """By OpenVINO, whose metadata are JSON in the file's rt_info."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if settings["bf16"] else "f32",
        "INFERENCE_NUM_THREADS": settings["threads"],
    }
    core = openvino.Core()
    model = core.read_model(path)
    metadata = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None
    compiled = core.compile_model(model, "CPU", hints)
    return Loaded(openvino.__version__, metadata, lambda images: compiled({INPUT: images})[0])


def load_executorch(path: str, _: "dict[str, Any]") -> Loaded:
    """By ExecuTorch, whose metadata are JSON that a method of the program answers."""
    import torch
    from executorch.runtime import Runtime, Verification

    content = Path(path).read_bytes()
    program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    metadata = program.load_method(METADATA).execute([])[0] if METADATA in program.method_names else None

    def run(images: Any, _kept: Any = (content, program)) -> Any:  # a method alone keeps neither alive
        return method.execute([torch.from_numpy(images)])[0].numpy()

    return Loaded(torch.__version__, metadata, run)


def load_pt2(path: str, settings: "dict[str, Any]") -> Loaded:
    """By PyTorch; the program may do anything."""
    import torch

    torch.set_num_threads(settings["threads"])
    return _torch_program(torch.export.load(path).module())


def load_aoti(path: str, settings: "dict[str, Any]") -> Loaded:
    """Compiled code, which PyTorch calls; it may do anything."""
    import torch
    import torch._inductor

    torch.set_num_threads(settings["threads"])
    return _torch_program(torch._inductor.aoti_load_package(path))


def _torch_program(program: Any) -> Loaded:
    import torch

    def run(images: Any) -> Any:
        with torch.inference_mode():
            return program(torch.from_numpy(images)).numpy()

    return Loaded(torch.__version__, None, run)


def load_mindir(path: str, _: "dict[str, Any]") -> Loaded:
    """By MindSpore."""
    import mindspore

    network = mindspore.nn.GraphCell(mindspore.load(path))
    return Loaded(
        mindspore.__version__,
        None,
        lambda images: network(mindspore.Tensor(images.copy())).asnumpy().astype("float32"),
    )


# The modules that each needs, which are imported before the file is looked at, and what loads the file.
KINDS: "dict[str, tuple[tuple[str, ...], Callable[[str, dict[str, Any]], Loaded]]]" = {
    "onnx": (("onnxruntime",), load_onnx),
    "openvino": (("openvino",), load_openvino),
    "executorch": (("torch", "executorch.runtime"), load_executorch),
    "pt2": (("torch.export",), load_pt2),
    "aoti": (("torch._inductor",), load_aoti),
    "mindir": (("mindspore",), load_mindir),
}

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # do not wait for the listening thread nor for those of runtimes
