"""The network: one idea a file, the whole architecture in `t2t_vit.py`, variants as rows of one table."""

from t2t_vit.model.create import create_model, list_models
from t2t_vit.model.t2t_vit import T2TViT

__all__ = ["T2TViT", "create_model", "list_models"]
