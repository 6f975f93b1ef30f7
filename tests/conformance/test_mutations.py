"""A file that is not the network must never pass, whatever MindSpore does with it; files of all kinds must."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mindspore_networks import network, pictures
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import ProgramError
from t2t_vit.export.write import DisagreementError, Evidence, Exported, Kind, export_model
from t2t_vit.formats.mindir import GraphWriter
from t2t_vit.inference.foreign_process import ForeignProcess
from t2t_vit.inference.load import load
from t2t_vit.inference.torch_predictor import TorchPredictor

SIZE = (28, 28)


@pytest.fixture(scope="module")
def predictor() -> TorchPredictor:
    return TorchPredictor(network("t2t_vit_quickstart", SIZE), Preprocessing(SIZE), None)


def export(predictor: TorchPredictor, path: Path, **kind: object) -> Exported:
    evidence = Evidence(pictures(SIZE))
    return export_model(
        predictor, path, arch="t2t_vit_quickstart", file_format="MINDIR", evidence=evidence, kind=Kind(**kind)
    )


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ({}, 1e-5),
        ({"batch": 3}, 1e-5),
        ({"normalised_inside": True}, 1e-5),
        ({"precision": "fp16"}, 1e-2),
        ({"precision": "fp16", "normalised_inside": True}, 1e-2),
    ],
    ids=str,
)
def test_a_true_file_passes(
    kind: dict, most: float, predictor: TorchPredictor, tmp_path: Path, mindspore_python: str
) -> None:
    assert mindspore_python
    done = export(predictor, tmp_path / "x.mindir", **kind)
    assert done.unverified is None and done.agreement is not None and done.agreement.top1_agreement == 1
    assert done.agreement.largest_difference < most * done.agreement.largest_logit
    again = load(done.path).logits(pictures(SIZE)[:5])
    assert float((again - predictor.logits(pictures(SIZE)[:5])).abs().max()) < most * done.agreement.largest_logit


class Mutant(GraphWriter):
    """Writes one thing differently, the first time that it comes."""

    change = ""

    def node(self, operator: str, inputs: Sequence[str], settings=None) -> str:
        first = not any(key[0] == operator for key in self._primitives)
        wanted, _, instead = self.change.partition(" -> ")
        if operator == wanted and first:
            if instead == "drop":
                super().node(operator, inputs, settings)  # is there, and does nothing
                return inputs[0]
            if instead == "swap":
                inputs = [inputs[1], inputs[0], *inputs[2:]]
            elif instead != "setting":
                operator = instead
            else:
                settings = {**(settings or {}), "pads": (0, 0)}
        return super().node(operator, inputs, settings)

    def constant(self, value):
        if self.change == "epsilon" and isinstance(value, float):
            value = 0.1
        return super().constant(value)

    def parameter(self, name: str, values: np.ndarray) -> str:
        if self.change == "value" and name == "head.weight":
            values = values * np.float32(1.001)
        if self.change == "shape" and name == "blocks.3.mlp.fc2.weight":
            values = values[:, 1:]
        return super().parameter(name, values)


CHANGES = (
    *("Exp -> Abs", "Exp -> Nonsense", "Softmax -> drop", "Sub -> swap", "Div -> Mul", "Add -> Sub"),
    *("Im2Col -> setting", "Minimum -> Maximum", "Erf -> Tanh", "epsilon", "value", "shape"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_mutant_never_passes(
    change: str, predictor: TorchPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mindspore_python: str
) -> None:
    assert mindspore_python
    monkeypatch.setattr(Mutant, "change", change)
    monkeypatch.setattr("t2t_vit.export.mindir.GraphWriter", Mutant)
    with pytest.raises(DisagreementError, match="not written, because it does not agree"):
        export(predictor, tmp_path / "x.mindir")
    assert list(tmp_path.iterdir()) == []


def test_a_file_over_which_mindspore_crashes(mindspore_python: str, tmp_path: Path) -> None:
    """Its loader checks little: a squeeze without its axis ends the process."""
    graph = GraphWriter()
    images = graph.input("images", (-1, 1, 4, 4), "float32")
    graph.output(graph.node("Squeeze", [images]), (-1, 4, 4), "float32")
    (tmp_path / "x.mindir").write_bytes(graph.to_bytes({}, "t2t_vit", "1"))
    with pytest.raises(ProgramError, match=r"MindSpore (crashes|\()"):
        process = ForeignProcess("mindir", "MindSpore", tmp_path / "x.mindir", python=mindspore_python)
        process.run(np.zeros((2, 1, 4, 4), np.float32), (2, 4, 4))
