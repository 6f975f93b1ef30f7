"""Triton's compiler takes the kernels, for two generations of GPUs, where none is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "product",
    "correlation",
    "sums",
    "to_features",
    "key_kernel",
    "join_kernel",
    "query_kernel",
    "query_backward_kernel",
    "key_backward_kernel",
}


@pytest.mark.parametrize(("capability", "dtype", "most"), [(90, "bfloat16", 227), (80, "float16", 163)])
def test_kernels_of_a_training_step(capability: int, dtype: str, most: int, tmp_path: Path) -> None:
    """With at most as much shared memory as a program may have there, in KiB (NVIDIA's tuning guides)."""
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("kernels_without_a_gpu.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:triton", str(script), str(capability), dtype],
        env={**own, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    started = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in started} == KERNELS
    assert max(int(shared) for _, shared in started) <= most * 1024
