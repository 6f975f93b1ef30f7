"""Any checkpoint -> names and tensors -> fitted to a model, with a report."""

from t2t_vit.weights.describe import Description, checkpoint_config, describe
from t2t_vit.weights.fit import Report, fit, load_weights
from t2t_vit.weights.kind import file_kind
from t2t_vit.weights.read import Weights, read_weights

__all__ = [
    "Description",
    "Report",
    "Weights",
    "checkpoint_config",
    "describe",
    "file_kind",
    "fit",
    "load_weights",
    "read_weights",
]
