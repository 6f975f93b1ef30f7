"""How often the host waits for the device."""

import warnings
from collections.abc import Callable

import torch


def synchronisations(run: Callable[[], object], device: torch.device) -> int | None:
    """How often `run()` waits for a CUDA device, as torch's own watch counts it; None on other devices."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns that it is a prototype
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
