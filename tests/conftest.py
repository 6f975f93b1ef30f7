import os
import signal
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Whether kernels are interpreted is settled when triton, and each file of kernels, is first imported, and whatever
    # compiles imports triton.
    os.environ["TRITON_INTERPRET"] = "1"
    import t2t_vit.ops.performer_triton_kernels
    import t2t_vit.ops.split_norm_linear_jit  # noqa: F401

    # What tests start is not to notice.
    del os.environ["TRITON_INTERPRET"]

# Shared test material (golden cases) lies beside the tests, not in the package.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    """The user's own cache is left alone, and signals have their usual meaning."""
    # What tests keep, compiled kernels above all, lies in pytest's cache and is there the next time.
    if config.cache is not None:
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("user-cache"))
    os.environ.pop("T2T_VIT_CACHE", None)
    # A job in the background ignores Ctrl-C, one behind nohup the end of its terminal, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
