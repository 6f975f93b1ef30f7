"""Exported files: self-contained, of any batch, proven before they appear, and good for predictions."""

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export.file_formats import FORMATS, find_format
from t2t_vit.export.job import ExportJob, Kind
from t2t_vit.export.verify import Agreement, verify, worst
from t2t_vit.export.write import DisagreementError, Evidence, Exported, export_model
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.runtime_predictors import OnnxPredictor
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_precision

CLASSES = tuple(f"Klasse {index} ü" for index in range(5))


def predictor(image_size: tuple[int, int] = (32, 48), seed: int = 0) -> TorchPredictor:
    torch.manual_seed(seed)
    model = t2t_vit.create_model("t2t_vit_quickstart", image_size=image_size, num_classes=5)
    with torch.no_grad():
        model.head.weight.mul_(20)  # logits far from zero, as a trained head has
    return TorchPredictor(model, Preprocessing(image_size, mean=(0.4,), std=(0.3,)), CLASSES)


def pictures(count: int, image_size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, image_size, mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    path = tmp_path_factory.mktemp("export") / "t2t_vit_quickstart.onnx"
    yield export_model(predictor(), path, arch="t2t_vit_quickstart", file_format="ONNX", evidence=Evidence(pictures(7)))


def test_the_file_agrees_with_the_network(exported: Exported) -> None:
    assert exported.unverified is None and exported.agreement is not None
    assert exported.agreement.is_acceptable and exported.agreement.images == 7
    assert exported.agreement.largest_difference < 1e-5 < exported.agreement.largest_logit
    assert exported.agreement.top1_agreement == 1.0
    assert "same top-1 on 100.0% of 7 images" in str(exported.agreement)


def test_the_file_is_alone_and_complete(exported: Exported) -> None:
    assert [path.name for path in exported.path.parent.iterdir()] == ["t2t_vit_quickstart.onnx"]
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert model.producer_name == "t2t_vit"
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("images", "logits")
    shape = given.type.tensor_type.shape.dim
    assert shape[0].dim_param and [side.dim_value for side in shape[1:]] == [3, 32, 48]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_metadata_say_how_to_use_it(exported: Exported) -> None:
    strings = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert strings["arch"] == "t2t_vit_quickstart" and strings["producer"].startswith("t2t_vit ")
    assert json.loads(strings["classes"]) == list(CLASSES)
    assert Preprocessing.from_dict(json.loads(strings["preprocessing"])) == predictor().preprocessing


def test_it_predicts_like_the_network(exported: Exported, tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "x.png")
    loaded = t2t_vit.load(exported.path, arch="t2t_vit_quickstart")
    assert isinstance(loaded, OnnxPredictor) and loaded.classes == CLASSES
    theirs, ours = predictor().predict(tmp_path / "x.png"), loaded.predict(tmp_path / "x.png")
    assert (theirs.index, theirs.name) == (ours.index, ours.name)
    assert theirs.probability == pytest.approx(ours.probability, abs=1e-5)
    for count in (1, 4, 2):
        assert loaded.logits(pictures(count)).shape == (count, 5)


def test_what_a_file_is_fixed_at_cannot_be_changed(exported: Exported) -> None:
    t2t_vit.load(exported.path, image_size=(32, 48), num_classes=5)
    for change in ({"arch": "t2t_vit_7"}, {"image_size": 32}, {"num_classes": 6}, {"crop_pct": 1.0}):
        with pytest.raises(UserError, match=next(iter(change))):
            t2t_vit.load(exported.path, **change)  # type: ignore[arg-type]


def test_a_file_that_was_cut_short_or_comes_from_elsewhere(exported: Exported, tmp_path: Path) -> None:
    content = exported.path.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="truncated"):
        t2t_vit.load(tmp_path / "cut.onnx")
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="was not exported by t2t_vit"):
        t2t_vit.load(tmp_path / "bare.onnx")


def test_exporting_says_nothing_and_leaves_the_network_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = predictor()
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    export_model(source, tmp_path / "a.onnx", arch="a", file_format="ONNX", evidence=Evidence(pictures(1)))
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(before[name], tensor) for name, tensor in source.model.state_dict().items())


def replaced(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setitem(FORMATS, "ONNX", replace(FORMATS["ONNX"], **changes))  # type: ignore[arg-type]


def test_a_file_that_disagrees_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, write=lambda _, path: path.write_bytes(b"another"), open=lambda *_: predictor(seed=1))
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(DisagreementError, match=r"not written.*largest logit difference"):
        export_model(predictor(), tmp_path / "a.onnx", arch="a", file_format="ONNX", evidence=Evidence(pictures(6)))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_without_its_runtime_the_file_is_kept_unverified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    replaced(monkeypatch, write=lambda _, path: path.write_bytes(b"content"))
    done = export_model(predictor(), tmp_path / "a.onnx", arch="a", file_format="ONNX", evidence=Evidence(pictures(6)))
    assert done.agreement is None and done.path.read_bytes() == b"content"
    assert done.unverified is not None and done.unverified.startswith("not verified: ONNX Runtime is not installed")
    with pytest.raises(UserError, match="pip install"):
        OnnxPredictor(done.path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_exporters_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'package {package}; install it with: pip install "onnx>='):
        find_format("ONNX").check()


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"file_format 'onnx' is not known; choose one of .*ONNX"):
        find_format("onnx")


class Constant(Predictor):
    def __init__(self, value: float) -> None:
        super().__init__(Preprocessing((4, 4)), None)
        self.value, self.batches = value, list[int]()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return torch.full((len(images), 3), self.value)


@pytest.mark.parametrize(("count", "batches"), [(1, [1, 3, 2]), (6, [1, 3, 2]), (9, [1, 3, 2, 3])])
def test_batches_of_one_three_two_and_more(count: int, batches: list[int]) -> None:
    ours = Constant(1.0)
    verify(ours, Constant(1.0), torch.zeros(count, 3, 4, 4, dtype=torch.uint8))
    assert ours.batches == batches


class Table(Predictor):
    """The logits of an image are the row that its first pixel names."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__(Preprocessing((4, 4)), None)
        self.rows = torch.tensor(rows)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.rows[images[:, 0, 0, 0].long()]


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


# Of eight images the file answers two otherwise (3 and 6), and one of these two rightly.
NETWORK = [[9.0, 1, 0], [0, 8, 1], [2, 0, 7], [6, 5, 0], [0, 3, -20], [1, 2, 4], [0, 7, 6.5], [5, 0, 1]]
FILE = [[9.5, 1, 0], [0, 8, 1], [2, 0, 7], [5, 5.5, 0], [0, 3, -17], [1, 2, 4], [0, 6, 6.5], [5, 0, 1]]
TARGETS = [0, 1, 2, 1, 1, 0, 1, 2]


def test_a_proof_says_of_each_number_what_it_is() -> None:
    found = verify(Table(FILE), Table(NETWORK), numbered(8), precision="int8", targets=torch.tensor(TARGETS))
    assert found == Agreement(
        images=8,
        largest_difference=3.0,  # of the fifth
        largest_logit=20.0,  # of the network's, in size
        top1_agreement=6 / 8,
        precision="int8",
        accuracies=(5 / 8, 5 / 8),
    )
    fewer = verify(Table(FILE), Table(NETWORK), numbered(4), targets=torch.tensor(TARGETS[:4]))
    assert fewer.images == 6  # the first two again
    assert fewer.top1_agreement == pytest.approx(5 / 6)
    assert fewer.accuracies == (pytest.approx(5 / 6), 1.0)
    swapped = verify(Table(NETWORK), Table(FILE), numbered(8))
    assert (swapped.largest_difference, swapped.largest_logit, swapped.accuracies) == (3.0, 17.0, None)


def test_two_proofs_together_are_as_bad_as_the_worse() -> None:
    one = Agreement(8, 0.5, 10.0, 0.75, "int8", (0.8, 0.7))
    other = Agreement(24, 2.0, 30.0, 0.25, "int8")
    assert worst(one, other) == Agreement(32, 2.0, 10.0, 0.375, "int8", (0.8, 0.7))
    assert worst(other, one) == Agreement(32, 2.0, 10.0, 0.375, "int8")


def written_job(monkeypatch: pytest.MonkeyPatch, source: TorchPredictor, path: Path, **asked: object) -> ExportJob:
    """What the writer of a format is given."""
    jobs: list[ExportJob] = []

    def write(job: ExportJob, path: Path) -> None:
        jobs.append(job)
        path.write_bytes(b"content")

    row = {"write": write, "open": lambda *_: source, "dynamic_batch": asked.pop("dynamic_batch", True)}
    replaced(monkeypatch, **row)
    asked.setdefault("evidence", Evidence(pictures(3)))
    export_model(source, path, arch="t2t_vit_quickstart", file_format="ONNX", **asked)  # type: ignore[arg-type]
    (job,) = jobs
    return job


def test_the_writer_is_given_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = predictor(), tmp_path / "a.onnx"
    plain = written_job(monkeypatch, source, path)
    expected = Metadata("t2t_vit_quickstart", source.preprocessing, CLASSES, 5, "fp32", 0, False, False)
    assert plain.metadata == expected and plain.model.other_sizes is None
    assert torch.equal(plain.calibration, pictures(3))  # those to compare on, where there are none
    kind = Kind("fp16", 3, normalised_inside=True)
    assert written_job(monkeypatch, source, path, kind=kind).metadata == replace(
        expected, precision="fp16", batch=3, normalised_inside=True
    )
    assert written_job(monkeypatch, source, path, dynamic_batch=False).metadata == replace(expected, batch=1)
    calibration = pictures(5).flip(3)
    evidence = Evidence(pictures(3), calibration=calibration)
    assert torch.equal(written_job(monkeypatch, source, path, evidence=evidence).calibration, calibration)


def test_a_network_of_lower_precision_is_compared_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = predictor()
    exact = TorchPredictor(copy.deepcopy(source.model), source.preprocessing, CLASSES)
    rounded = TorchPredictor(
        source.model, source.preprocessing, CLASSES, choose_precision("bf16", torch.device("cpu"), training=False)
    )
    replaced(monkeypatch, write=lambda _, path: path.write_bytes(b"content"), open=lambda *_: exact)
    done = export_model(rounded, tmp_path / "a.onnx", arch="a", file_format="ONNX", evidence=Evidence(pictures(6)))
    assert done.agreement is not None and done.agreement.largest_difference == 0.0


def test_a_file_of_any_size_is_proven_at_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose answers are wrong at another size alone is not kept."""
    source = predictor()
    wrong, seen = [()], list[tuple[int, ...]]()

    class Opened(TorchPredictor):
        def logits(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape[2:]))
            assert images.float().std() > 1  # pictures, stretched
            return super().logits(images) + (images.shape[2:] == wrong[0])

    def opened(_: Path, _limits: object) -> TorchPredictor:
        network = copy.deepcopy(source.model)
        network.other_sizes = "resize"  # type: ignore[assignment]
        return Opened(network, source.preprocessing, CLASSES)

    replaced(monkeypatch, write=lambda _, path: path.write_bytes(b"content"), open=opened)

    def export() -> Exported:
        kind, evidence = Kind(dynamic_size=True), Evidence(pictures(6))
        return export_model(source, tmp_path / "a.onnx", arch="a", file_format="ONNX", evidence=evidence, kind=kind)

    done = export()
    sizes = [(32, 48), (41, 83), (64, 96)]
    assert list(dict.fromkeys(seen)) == sizes and done.agreement is not None and done.agreement.images == 18
    for wrong[0] in sizes:
        with pytest.raises(DisagreementError):
            export()


def test_agreement_is_measured_against_the_largest_logit() -> None:
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    assert verify(Constant(100.0), Constant(100.005), images).is_acceptable
    assert not verify(Constant(1.0), Constant(1.005), images).is_acceptable
    assert not verify(Constant(float("nan")), Constant(1.0), images).is_acceptable
    assert Agreement(6, 0.0, 0.0, 1.0).is_acceptable


def test_what_is_asked_of_fp16_and_int8() -> None:
    assert Agreement(100, 0.1, 10.0, 0.99, "fp16").is_acceptable
    assert not Agreement(100, 0.1, 10.0, 0.98, "fp16").is_acceptable
    assert not Agreement(100, 0.3, 10.0, 1.0, "fp16").is_acceptable
    assert Agreement(100, 3.0, 10.0, 0.99, "int8").is_acceptable
    assert not Agreement(100, 3.0, 10.0, 0.97, "int8", (0.8, 0.8)).is_acceptable  # too few images to speak of accuracy
    assert Agreement(500, 3.0, 10.0, 0.97, "int8", (0.8, 0.791)).is_acceptable
    assert not Agreement(500, 3.0, 10.0, 0.97, "int8", (0.8, 0.78)).is_acceptable
    assert Agreement(500, 3.0, 10.0, 0.97, "int8", (0.8, 0.9)).is_acceptable  # it may be better
    assert not Agreement(499, 3.0, 10.0, 0.97, "int8", (0.8, 0.8)).is_acceptable
    assert not Agreement(500, 0.1, 10.0, 0.97, "fp16", (0.8, 0.8)).is_acceptable
    assert not Agreement(500, float("nan"), 10.0, 1.0, "int8", (0.8, 0.8)).is_acceptable
