"""Memory that runs out is one sentence that says what to lower, on a device or on the host, and exit code 2."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.cli.main import main
from t2t_vit.out_of_memory import is_out_of_memory, out_of_memory_sentence

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1.03 GiB is free"
)
ON_DEVICE = [
    torch.OutOfMemoryError(CUDA),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other API call"),
    RuntimeError("MPS backend out of memory (MPS allocated: 10 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
ON_HOST = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
    ),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(np.float64)),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize("error", [*ON_DEVICE, *ON_HOST], ids=lambda error: str(error)[:30])
@pytest.mark.parametrize("command", ["train", "eval", "infer", "bench", "export", "quickstart", "weights"])
def test_each_kind_is_one_sentence(error: Exception, command: str) -> None:
    assert is_out_of_memory(error)
    sentence = out_of_memory_sentence(error, command)
    where = "the device" if error in ON_DEVICE else "this machine"
    assert sentence.startswith(f"out of memory on {where}") and "\n" not in sentence
    assert ("lower " in sentence) == (command != "weights")


def test_how_much_was_asked_for() -> None:
    assert "(2.00 GiB more were requested)" in out_of_memory_sentence(ON_DEVICE[0], "train")
    assert "(99 bytes more were requested)" in out_of_memory_sentence(ON_HOST[1], "train")


def test_an_error_that_came_from_it() -> None:
    try:
        try:
            raise ON_DEVICE[0]
        except RuntimeError as error:
            raise ValueError("the compiler failed") from error
    except ValueError as outer:
        assert is_out_of_memory(outer)
        assert "(2.00 GiB more" in out_of_memory_sentence(outer, "train")


@pytest.mark.parametrize(
    "error", [ValueError("DefaultCPUAllocator: not enough memory"), RuntimeError("a shape is wrong"), OSError(2, "no")]
)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_command_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise ON_DEVICE[0]

    monkeypatch.setattr("t2t_vit.cli.models.run", full)
    assert main(["models"]) == 2
    assert capsys.readouterr().err.startswith("t2t-vit: out of memory on the device")


LIMITED = """
import os, resource, sys
import torch
from t2t_vit.cli import train
from t2t_vit.cli.main import main
if "UNCHECKED" in os.environ:
    train.check_memory = lambda *_: None  # what is not foreseen
torch.set_num_threads(1)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 900 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.thorough
def test_a_batch_that_no_memory_holds_and_one_that_it_does(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    keys = {
        "data_url": "photos", "train_dir": ".", "val_split": 0.1, "arch": "t2t_vit_7", "epochs": 1, "image_size": 224,
        "pynative_mode": True, "num_parallel_workers": 0, "device": "cpu", "max_steps": 1, "warmup_length": 0,
    }  # fmt: skip

    words = [f"--{key}={value}" for key, value in keys.items()]

    def train(batch_size: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", LIMITED, "train", f"--batch_size={batch_size}", *words],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    failed = train(64, UNCHECKED="yes")
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("t2t-vit: out of memory on this machine")
    assert "Traceback" not in failed.stderr and "stopped at step 0; no checkpoint has been written yet" in failed.stderr
    found = train("auto")  # as the sentence says
    assert found.returncode == 0, found.stderr
    assert "batch_size auto: " in found.stderr
