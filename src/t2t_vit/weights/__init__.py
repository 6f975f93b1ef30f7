"""Any checkpoint -> names and tensors -> fitted to a model, with a report."""

from t2t_vit.weights.describe import Description, checkpoint_config, describe
from t2t_vit.weights.fit import fit, load_weights
from t2t_vit.weights.kind import file_kind
from t2t_vit.weights.read import Weights, read_weights
from t2t_vit.weights.report import Change, Report
from t2t_vit.weights.saved_run import SavedRun, read_run
from t2t_vit.weights.write import FORMATS, convert_weights

__all__ = [
    "FORMATS",
    "Change",
    "Description",
    "Report",
    "SavedRun",
    "Weights",
    "checkpoint_config",
    "convert_weights",
    "describe",
    "file_kind",
    "fit",
    "load_weights",
    "read_run",
    "read_weights",
]
