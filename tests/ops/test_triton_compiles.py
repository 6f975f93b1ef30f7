"""Triton's compiler takes the kernels as GPUs get them, for each generation from sm_80 on, where none is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "product",
    "correlation",
    "to_features",
    "key_kernel",
    "join_kernel",
    "query_kernel",
    "query_backward_kernel",
    "key_backward_kernel",
}


# Shared memory that a program may have, in KiB (NVIDIA's tuning guides, "shared memory a thread block").
MOST = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
ALWAYS = [(80, "float16", "high")]
THOROUGH = [
    *((capability, "bfloat16", "high") for capability in (86, 90)),
    *((capability, "bfloat16", "high") for capability in (80, 89, 100, 120)),
    *((86, dtype, "high") for dtype in ("float16", "float32")),
    (86, "float32", "highest"),
    *((capability, "float32", "highest") for capability in (80, 90, 120)),
]
CASES = [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.thorough) for case in THOROUGH)]


@pytest.mark.parametrize(("capability", "dtype", "precision"), CASES)
def test_kernels_of_a_training_step(capability: int, dtype: str, precision: str, tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("kernels_without_a_gpu.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:triton", str(script), str(capability), dtype, precision],
        env={**own, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    started = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in started} == KERNELS
    too_much = [(name, shared) for name, shared in started if int(shared) > MOST[capability] * 1024]
    assert not too_much
