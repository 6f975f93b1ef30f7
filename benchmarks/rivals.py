"""Other people's runtimes on our weights."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from t2t_vit.export.graph_form import SlicedTokens
from t2t_vit.model import T2TViT
from t2t_vit.model.tokens_to_token import TokensToToken


def by_openvino(model: T2TViT, images: Tensor, precision: str) -> dict[str, Callable[[], object]]:
    """OpenVINO in "f32" or "bf16", by each of its performance hints; nothing where it is not installed.

    It is given the form that `t2t-vit export` writes, which suits it better than the network as it stands.
    """
    try:
        import openvino
    except ImportError:
        print('OpenVINO is left out: pip install -e ".[openvino]" brings it')
        return {}
    form = copy.deepcopy(model).eval()
    if isinstance(form.tokens_to_token, TokensToToken):
        form.set_submodule("tokens_to_token", SlicedTokens(form.tokens_to_token))
    converted = openvino.convert_model(form, example_input=images, input=[list(images.shape)])
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
