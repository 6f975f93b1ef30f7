"""Memory that ran out, on a device or on the host: how it is recognised, and the sentence that says what to lower.

PyTorch, NumPy, the C++ library and the runtimes of exported files each have an error of their own for it, some of them
only a text. Nothing is imported here, so that the command line can ask without PyTorch.
"""

import errno
import re
from collections.abc import Iterator

_DEVICE = re.compile(
    r"(CUDA|HIP|MPS|XPU|NPU|GPU).{0,40}out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|cudaErrorMemoryAllocation|OutOfMemory error from cudaMalloc",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|bad allocation|Cannot allocate memory"
    r"|Unable to allocate [\d.]+ \w+ for an array|Failed to allocate memory|unable to mmap \d+ bytes",
    re.IGNORECASE,
)
_WANTED = re.compile(r"(?:allocate|mmap) (\d[\d.]* ?(?:[KMGT]i?B|bytes))")
_LOWER = {
    "train": "lower batch_size (accumulation_step keeps the images of an update) or image_size, or write "
    "--batch_size auto, which finds what fits",
    "quickstart": "lower batch_size",
    "eval": "lower batch_size or num_parallel_workers",
    "infer": "lower batch_size or workers",
    "bench": "lower batch_size or image_size",
    "export": "lower image_size, or --calibration for int8",
    "show": "lower image_size",
}
_ON_HOST = {"train": "; num_parallel_workers 0 and cache off also need less"}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or what it came from, is memory that ran out."""
    return any(_kind(each) for each in _chain(error))


def says_out_of_memory(text: str) -> bool:
    """Whether `text`, which another process printed, is about memory that ran out on the host."""
    return _HOST.search(text) is not None or "MemoryError" in text


def out_of_memory_sentence(error: BaseException, command: str) -> str:
    """Where memory ran out, how much was asked for as far as that is known, and what to lower.

    Args:
        command: train, eval, infer, ...: what was being done.
    """
    found = next((each for each in _chain(error) if _kind(each)), error)
    kind = _kind(found) or "host"
    wanted = _WANTED.search(str(found))
    asked = f" ({wanted[1]} more were requested)" if wanted else ""
    where = "the device" if kind == "device" else "this machine"
    advice = _LOWER.get(command, "close other programs")
    further = _ON_HOST.get(command, "") if kind == "host" else ""
    return f"out of memory on {where}{asked}: {advice}{further}"


def _kind(error: BaseException) -> str:
    """`device`, `host`, or nothing where it is another error."""
    if type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") and _DEVICE.search(str(error)):
        return "device"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "host"
    if type(error).__name__ == "OutOfMemoryError":
        return "device"
    if not isinstance(error, RuntimeError) and not type(error).__module__.startswith("onnxruntime"):
        return ""
    text = str(error)
    return "device" if _DEVICE.search(text) else "host" if _HOST.search(text) else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
