"""Any checkpoint -> names and tensors -> fitted to a model, with a report."""

from t2t_vit.weights.description import Description, checkpoint_config, describe
from t2t_vit.weights.fitting import Change, FitReport, fit, load_weights
from t2t_vit.weights.kind import file_kind
from t2t_vit.weights.reading import Weights, read_weights
from t2t_vit.weights.saved_run import SavedRun, read_saved_run
from t2t_vit.weights.writing import FORMATS, convert_weights

__all__ = [
    "FORMATS",
    "Change",
    "Description",
    "FitReport",
    "SavedRun",
    "Weights",
    "checkpoint_config",
    "convert_weights",
    "describe",
    "file_kind",
    "fit",
    "load_weights",
    "read_saved_run",
    "read_weights",
]
