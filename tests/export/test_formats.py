"""Every format is written, proven, and opens again through the one door, with the network's answers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export.form import graph_form
from t2t_vit.export.job import Job, Kind
from t2t_vit.export.onnx import onnx_model
from t2t_vit.export.survey import speed_of
from t2t_vit.export.table import FORMATS, find_format
from t2t_vit.export.write import Evidence, Exported, export_model
from t2t_vit.inference.exported_predictor import ExportedPredictor
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.model import T2TViT
from t2t_vit.weights import file_kind

ARCH = "t2t_vit_quickstart"
KINDS = {
    "ONNX": "onnx",
    "PT2": "pt2",
    "AOTI": "aoti",
    "OPENVINO": "openvino",
    "EXECUTORCH": "executorch",
    "SAFETENSORS": "safetensors",
}


def written(
    trained: TorchPredictor,
    evidence: Evidence,
    folder: Path,
    file_format: str,
    kind: Kind = Kind(),  # noqa: B008
) -> Exported:
    path = folder / f"net{find_format(file_format).ending}"
    return export_model(trained, path, arch=ARCH, file_format=file_format, evidence=evidence, kind=kind)


@pytest.mark.parametrize("file_format", KINDS)
def test_it_is_written_proven_and_opened(
    file_format: str, trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    done = written(trained, few, tmp_path, file_format)
    assert done.unverified is None and done.agreement is not None and done.agreement.agrees
    assert done.agreement.top1_agreement == 1.0
    assert set(done.files) == set(tmp_path.iterdir()) and done.size > 1e6
    renamed = done.path if file_format == "OPENVINO" else done.path.rename(tmp_path / "told.by_content.pt2")
    assert file_kind(renamed) == KINDS[file_format]
    loaded = t2t_vit.load(renamed, allow_native_code=True)
    assert loaded.classes == trained.classes and loaded.preprocessing == trained.preprocessing
    Image.fromarray(few.images[3, 0].numpy()).save(tmp_path / "x.png")
    theirs, ours = trained.predict(tmp_path / "x.png"), loaded.predict(tmp_path / "x.png")
    assert (theirs.index, theirs.name) == (ours.index, ours.name)
    assert theirs.probability == pytest.approx(ours.probability, abs=1e-4)
    for count in (1, 5, 2):
        expected = trained.logits(few.images[:count])
        torch.testing.assert_close(loaded.logits(few.images[:count]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("file_format", ["ONNX", "OPENVINO", "PT2", "SAFETENSORS"])
def test_half_the_bytes_and_the_same_answers(
    file_format: str, trained: TorchPredictor, evidence: Evidence, tmp_path: Path
) -> None:
    some = Evidence(evidence.images[:200])
    done = written(trained, some, tmp_path, file_format, Kind("fp16"))
    assert done.agreement is not None and 0 < done.agreement.largest_difference < 0.1
    assert done.agreement.top1_agreement >= 0.99
    weights = sum(tensor.numel() for tensor in trained.model.state_dict().values())
    assert done.size < 2 * weights * 1.25


@pytest.mark.parametrize("file_format", ["ONNX", "OPENVINO"])
def test_int8_keeps_99_percent_of_the_answers(
    file_format: str, trained: TorchPredictor, evidence: Evidence, tmp_path: Path
) -> None:
    done = written(trained, evidence, tmp_path, file_format, Kind("int8"))
    assert done.agreement is not None and done.agreement.accuracies is not None
    assert done.agreement.top1_agreement >= 0.985
    network, file = done.agreement.accuracies
    assert network > 0.6 and abs(network - file) <= 0.01
    assert "accuracy" in str(done.agreement) and "->" in str(done.agreement)
    weights = sum(tensor.numel() for tensor in trained.model.state_dict().values())
    assert done.size < weights * 1.6
    loaded = t2t_vit.load(done.path)
    assert isinstance(loaded, ExportedPredictor) and loaded.metadata.precision == "int8"


def test_options_of_an_onnx_file(trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    done = written(trained, few, tmp_path, "ONNX", Kind(batch=4, normalised_inside=True))
    (given,) = onnx.load(done.path).graph.input
    shape = [side.dim_value for side in given.type.tensor_type.shape.dim]
    assert shape == [4, 1, 28, 28] and given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    loaded = t2t_vit.load(done.path)
    torch.testing.assert_close(loaded.logits(few.images[:7]), trained.logits(few.images[:7]), atol=1e-4, rtol=1e-4)


def test_images_of_any_size(trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    done = written(trained, few, tmp_path, "ONNX", Kind(dynamic_size=True))
    assert done.agreement is not None and done.agreement.images == 8 + 2 * 6  # of three sizes
    loaded = t2t_vit.load(done.path, image_size=(40, 64))
    assert loaded.preprocessing.image_size == (40, 64)
    assert loaded.predict(Image.new("L", (200, 100), 90)).name in (trained.classes or ())


@pytest.mark.parametrize(
    ("file_format", "kind", "expected"),
    [
        ("AOTI", Kind("int8"), "AOTI has no precision int8; choose fp32"),
        ("PT2", Kind(dynamic_size=True), "PT2 has one image size"),
        ("SAFETENSORS", Kind(batch=2), "holds weights alone"),
        ("TENSORRT", Kind(), "there is none here: nothing was written.*trtexec"),
        ("AIR", Kind(), "nothing was written"),
    ],
)
def test_what_a_format_cannot_be(
    file_format: str, kind: Kind, expected: str, trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    if file_format == "TENSORRT" and torch.cuda.is_available():
        return
    with pytest.raises(UserError, match=expected):
        written(trained, few, tmp_path, file_format, kind)
    assert list(tmp_path.iterdir()) == []


VARIANTS = """
    t2t_vit_7 t2t_vit_t_14 t2t_vit_14_resnext t2t_vit_14_wide t2t_vit_14_se t2t_vit_dense t2t_vit_16_ghost t2t_vit_c_14
"""


@pytest.mark.parametrize("arch", VARIANTS.split())
def test_every_kind_of_network_on_flat_and_noisy_images(
    arch: str, shallow: Callable[[str], T2TViT], tmp_path: Path
) -> None:
    """In ONNX Runtime, and in OpenVINO from the same graph; where windows are flat a careless form loses its digits."""
    predictor = TorchPredictor(shallow(arch), Preprocessing((32, 48)), None)
    noise = torch.randint(256, (4, 3, 32, 48), dtype=torch.uint8)
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 32, 48)
    evidence = Evidence(torch.cat([noise, flat]))
    done = export_model(predictor, tmp_path / "net.onnx", arch=arch, file_format="ONNX", evidence=evidence)
    assert done.agreement is not None and done.agreement.top1_agreement == 1.0
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    in_openvino = openvino.compile_model(str(done.path), "CPU", hints)
    inputs = predictor.preprocessing.normalize(evidence.images)
    ours, theirs = torch.from_numpy(in_openvino(inputs.numpy())[0]), predictor.logits(evidence.images)
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
    assert torch.equal(ours.argmax(1), theirs.argmax(1))


def test_the_graph_is_smaller_than_the_plain_one(shallow: Callable[[str], T2TViT]) -> None:
    job = Job(shallow("t2t_vit_7"), Metadata("t2t_vit_7", Preprocessing((32, 48)), None, 5), torch.empty(0))
    plain, ours = (Counter(node.op_type for node in onnx_model(job, by_slices=by).graph.node) for by in (False, True))
    assert plain["Gather"] > ours["Gather"] <= 1  # that of the class token
    assert ours.total() < plain.total()
    assert ours["Gelu"] == 2 + 2 and "Erf" not in ours and "AveragePool" not in ours
    assert ours["Softmax"] == 2 and ours["MatMul"] < 40


def test_the_form_is_the_network(shallow: Callable[[str], T2TViT]) -> None:
    model = shallow("t2t_vit_t_14")
    job = Job(model, Metadata("t2t_vit_t_14", Preprocessing((32, 48)), None, 5), torch.empty(0))
    images = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(graph_form(job)(images), model(images), atol=1e-4, rtol=1e-5)


def test_files_say_nothing_of_the_machine_that_made_them(
    trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    done = written(trained, few, tmp_path, "ONNX")
    assert b".py" not in done.path.read_bytes()


def test_a_file_in_figures(trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    speed = speed_of(written(trained, few, tmp_path, "SAFETENSORS"), few.images)
    assert speed.load_seconds > 0 and speed.images_per_second > 1


def test_the_table_is_the_configuration_s() -> None:
    from t2t_vit.settings.schema import FILE_FORMATS

    assert {*FORMATS, "all"} == set(FILE_FORMATS)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt(precision: str, trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    done = written(trained, few, tmp_path, "TENSORRT", Kind(precision))  # type: ignore[arg-type]
    assert done.agreement is not None and done.agreement.agrees
    with pytest.raises(UserError, match="native code"):
        t2t_vit.load(done.path)
    loaded = t2t_vit.load(done.path, allow_native_code=True)
    assert [one.index for one in loaded.classify(list(few.images))] == [
        one.index for one in trained.classify(list(few.images))
    ]
