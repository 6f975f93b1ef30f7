"""The network: one idea a file, the whole architecture in `t2t_vit.py`, variants as rows of one table."""

from t2t_vit.model.attention_maps import attention_maps
from t2t_vit.model.intermediates import FeaturesOnly
from t2t_vit.model.pretrained import from_pretrained, push_to_hub, save_pretrained
from t2t_vit.model.t2t_vit import T2TViT, create_model, list_models

__all__ = [
    "FeaturesOnly",
    "T2TViT",
    "attention_maps",
    "create_model",
    "from_pretrained",
    "list_models",
    "push_to_hub",
    "save_pretrained",
]
