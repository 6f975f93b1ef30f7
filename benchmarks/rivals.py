"""Other people's runtimes on our weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def by_openvino(model: nn.Module, images: Tensor, precision: str) -> dict[str, Callable[[], object]]:
    """OpenVINO in "f32" or "bf16", by each of its performance hints; nothing where it is not installed."""
    try:
        import openvino
    except ImportError:
        print('OpenVINO is left out: pip install "t2t_vit[openvino]" brings it')
        return {}
    converted = openvino.convert_model(model.eval(), example_input=images, input=[list(images.shape)])
    content = images.numpy()
    rivals: dict[str, Callable[[], object]] = {}
    for hint in ("LATENCY", "THROUGHPUT"):
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        rivals[f"OpenVINO {precision}, {hint.lower()}"] = partial(compiled, content)
    return rivals
