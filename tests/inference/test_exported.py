"""Files that a stranger hands in as exported ones: one sentence each, and nothing of them is run that should not be."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import ProgramError, UserError
from t2t_vit.export.job import ExportJob
from t2t_vit.export.torch_formats import write_pt2
from t2t_vit.inference import runtime_predictors
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.inference.load import check_fixed, is_exported
from t2t_vit.inference.runner import INPUT, OUTPUT
from t2t_vit.inference.runtime_predictors import OPENVINO_SECTION, OnnxPredictor, OpenVinoPredictor, Pt2Predictor
from t2t_vit.model import T2TViT
from t2t_vit.weights import file_kind, read_weights

MODEL = "models/model.json"


def network() -> T2TViT:
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", image_size=28, num_classes=3).eval()
    model.blocks = model.blocks[:1]  # a program of few nodes is read sooner
    return model


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    metadata = Metadata("t2t_vit_quickstart", Preprocessing((28, 28)), ("a", "b", "c"), 3)
    write_pt2(ExportJob(network(), metadata, torch.empty(0)), path)
    return path


def changed(path: Path, target: Path, entry: str, change: Callable[[Any], Any]) -> Path:
    """A copy of the archive with one JSON entry changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith(entry):
                content = json.dumps(change(json.loads(content))).encode()
            copy.writestr(info.filename, content)
    return target


def test_the_program_is_the_network_and_torch_s_own_reader_takes_it(pt2: Path) -> None:
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        expected = network()(images)
        torch.testing.assert_close(Pt2Predictor(pt2).run(images), expected)
        torch.testing.assert_close(torch.export.load(pt2).module()(images), expected)
        assert set(torch.export.load(pt2).state_dict) == {f"model.{name}" for name in network().state_dict()}


def test_nothing_in_the_file_is_pickled(pt2: Path) -> None:
    with zipfile.ZipFile(pt2) as archive:
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
    assert sizes.get("data/sample_inputs/model.pt", 0) == 0


def test_a_damaged_program_is_one_sentence(pt2: Path, tmp_path: Path) -> None:
    for change in (lambda _: {}, lambda _: [], lambda program: program | {"graph_module": {}}):
        with pytest.raises(UserError, match=r"cannot be loaded by torch\.export .*; it may be truncated, damaged"):
            t2t_vit.load(changed(pt2, tmp_path / "x.pt2", MODEL, change), allow_native_code=True)


def test_programs_that_were_cut_short_or_come_from_elsewhere(pt2: Path, tmp_path: Path) -> None:
    content = pt2.read_bytes()
    for length in (10, 1000, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.pt2").write_bytes(content[:length])
        with pytest.raises(UserError):
            t2t_vit.load(tmp_path / "cut.pt2", allow_native_code=True)
    spoilt = bytearray(content)
    spoilt[200:204] = b"\xff\xff\xff\xff"  # in the first weight
    (tmp_path / "spoilt.pt2").write_bytes(spoilt)
    with pytest.raises(UserError, match="damaged"):
        t2t_vit.load(tmp_path / "spoilt.pt2", allow_native_code=True)
    foreign = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), foreign)
    (tmp_path / "foreign.pt2").write_bytes(foreign.getvalue())
    with pytest.raises(UserError, match="was not exported by t2t_vit"):
        t2t_vit.load(tmp_path / "foreign.pt2", allow_native_code=True)
    assert is_exported(tmp_path / "foreign.pt2")


def test_an_exported_file_is_no_checkpoint(pt2: Path) -> None:
    with pytest.raises(UserError, match="exported program: infer and eval run it, but it is not a checkpoint"):
        read_weights(pt2)


def test_programs_run_only_when_asked_for_by_name(pt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a program, which may do anything.*--allow_native_code"):
        t2t_vit.load(pt2)
    shutil.copy(pt2, tmp_path / "code.pt2")
    with zipfile.ZipFile(tmp_path / "code.pt2", "a") as archive:
        archive.writestr("archive/data/aotinductor/model/x.so", b"\x7fELF")
    assert file_kind(tmp_path / "code.pt2") == "aoti"
    with pytest.raises(UserError, match=r"is a program, which may do anything.*--allow_native_code"):
        t2t_vit.load(tmp_path / "code.pt2")
    with pytest.raises(UserError, match="cannot be loaded by AOTInductor on this machine"):
        t2t_vit.load(tmp_path / "code.pt2", allow_native_code=True)


def test_names_that_lie(tmp_path: Path) -> None:
    for name, said in (("x.onnx", "ONNX"), ("x.xml", "OpenVINO"), ("x.pte", "ExecuTorch")):
        (tmp_path / name).write_text("hello\n")
        with pytest.raises(UserError, match=f"is not an {said}"):
            t2t_vit.load(tmp_path / name)


def test_openvino_files_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<net name="x" version="11"><layers/></net>\n')
    with pytest.raises(UserError, match=r"its weights, a.bin, is not in the same folder"):
        t2t_vit.load(tmp_path / "a.xml")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be loaded by OpenVINO|was not exported by t2t_vit"):
        t2t_vit.load(tmp_path / "a.xml")


def test_executorch_files_from_elsewhere(tmp_path: Path) -> None:
    head = b"\x1c\0\0\0ET12eh00" + (32).to_bytes(4, "little") + (10**6).to_bytes(8, "little") + bytes(16)
    (tmp_path / "a.pte").write_bytes(head + bytes(100))
    with pytest.raises(UserError, match="truncated"):
        t2t_vit.load(tmp_path / "a.pte")


FULL = Metadata("a", Preprocessing((4, 6), 0.8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), ("x", "y"), 2, "int8", 7, True, True)


def test_metadata_come_back_whole() -> None:
    assert Metadata.from_strings(FULL.to_strings()) == FULL
    for change in ({"precision": "fp16"}, {"batch": 0}, {"dynamic_size": False}, {"normalised_inside": False}):
        other = replace(FULL, **change)  # type: ignore[arg-type]
        assert Metadata.from_strings(other.to_strings()) == other != FULL
    assert Metadata.from_strings(replace(FULL, classes=None).to_strings()).classes is None
    with pytest.raises(ValueError, match="2 names of 3 classes"):
        Metadata.from_strings(replace(FULL, num_classes=3).to_strings())


def test_the_configuration_that_a_file_decides() -> None:
    assert FULL.config == {
        "arch": "a",
        "num_classes": 2,
        "image_size": [4, 6],
        "in_chans": 3,
        "crop_pct": 0.8,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    assert replace(FULL, preprocessing=Preprocessing((6, 6))).config["image_size"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {"batch": "-1"},
        {"batch": "1000000000"},
        {"num_classes": "-3"},
        {"num_classes": "10000000000"},
        {"crop_pct": 1e-320},
        {"image_size": [4, 10**9]},
        {"image_size": [8192, 8192]},
        {"batch": "65536", "image_size": [224, 224]},  # 39 GB a call
        {"num_classes": "0"},
        {"mean": [float("inf")] * 3},
        {"std": [float("nan")] * 3},
    ],
)
def test_numbers_that_no_export_writes(change: dict[str, Any]) -> None:
    strings = FULL.to_strings()
    inner = json.loads(strings["preprocessing"])
    strings |= {key: value for key, value in change.items() if key in strings}
    inner |= {key: value for key, value in change.items() if key in inner}
    strings["preprocessing"] = json.dumps(inner)
    with pytest.raises(ValueError, match=next(iter(change))):
        Metadata.from_strings(strings)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (torch.zeros(7, 3), r"answers 7 images with torch.float32 of the shape \(7, 3\), and not with 2 logits each"),
        (torch.zeros(6, 2), r"of the shape \(6, 2\)"),
        (torch.zeros(7, 2, dtype=torch.int64), "with torch.int64"),
        (RuntimeError("bad\x1b[2J\nnode"), r"holds a program that fails on images \(bad\\x1b\[2J node\)"),
        (UserError("x: is another"), "^x: is another$"),
    ],
)
def test_answers_that_are_no_logits(answer: Any, told: str) -> None:
    class Foreign(ExportedPredictor):
        def run(self, _: torch.Tensor) -> torch.Tensor:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    with pytest.raises(UserError, match=told):
        Foreign("x", FULL).logits(torch.zeros(5, 3, 4, 6, dtype=torch.uint8))


def test_what_a_file_is_fixed_at_and_what_is_free() -> None:
    class Fixed(ExportedPredictor):
        def run(self, inputs: torch.Tensor) -> torch.Tensor:
            raise AssertionError(f"{len(inputs)} images are computed")

    free = Fixed("x", FULL)
    check_fixed(free, arch="a", num_classes=2, image_size=(40, 64), crop_pct=0.8)
    assert free.preprocessing == replace(FULL.preprocessing, image_size=(40, 64))
    check_fixed(free, image_size=32)
    assert free.preprocessing.image_size == (32, 32)
    fixed = replace(FULL, dynamic_size=False)
    check_fixed(Fixed("x", fixed), image_size=(4, 6))
    for key, value in (("arch", "b"), ("num_classes", 3), ("image_size", (6, 4)), ("crop_pct", 0.9)):
        with pytest.raises(UserError, match=key):
            check_fixed(Fixed("x", fixed), **{key: value})


def openvino_file(path: Path) -> Path:
    """The mean of each channel as logits."""
    images = openvino.opset13.parameter([-1, 3, 4, 6], np.float32, name=INPUT)
    means = openvino.opset13.reduce_mean(images, np.array([2, 3]), keep_dims=False)
    model = openvino.Model([means], [images])
    images.output(0).set_names({INPUT})
    metadata = replace(FULL, num_classes=3, classes=None, precision="fp32", batch=0, normalised_inside=False)
    model.set_rt_info(json.dumps(metadata.to_strings()), [OPENVINO_SECTION])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


@pytest.mark.parametrize(("amp_level", "hint"), [("O0", "f32"), ("bf16", "bf16"), ("auto", "bf16")])
def test_openvino_computes_in_the_precision_that_is_asked_for(amp_level: str, hint: str, tmp_path: Path) -> None:
    if hint == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a processor with bfloat16 (AVX-512 bf16 or AMX)")
    predictor = t2t_vit.load(openvino_file(tmp_path / "x.xml"), amp_level=amp_level)
    assert isinstance(predictor, OpenVinoPredictor)
    images = torch.arange(2 * 72, dtype=torch.uint8).view(2, 3, 4, 6)
    expected = FULL.preprocessing.normalize(images).mean((2, 3))
    torch.testing.assert_close(predictor.logits(images), expected, atol=2e-2 if hint == "bf16" else 1e-5, rtol=1e-2)


def test_onnx_computes_what_the_graph_says(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    shape = ["batch", 3, 4, 6]
    node = onnx.helper.make_node("ReduceMean", [INPUT, "axes"], [OUTPUT], keepdims=0)
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], "g", [value(INPUT, kind, shape)], [value(OUTPUT, kind, ["batch", 3])], [axes]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    metadata = replace(FULL, num_classes=3, classes=None, precision="fp32", batch=0, normalised_inside=False)
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.save(model, tmp_path / "x.onnx")
    predictor = t2t_vit.load(tmp_path / "x.onnx")
    assert isinstance(predictor, OnnxPredictor)
    images = torch.arange(2 * 72, dtype=torch.uint8).view(2, 3, 4, 6)
    torch.testing.assert_close(predictor.logits(images), FULL.preprocessing.normalize(images).mean((2, 3)))


@pytest.mark.parametrize(("length", "needed"), [(32, 250), (24, 120)])
def test_an_executorch_program_is_as_long_as_its_header_says(length: int, needed: int, tmp_path: Path) -> None:
    """Program, where the segments begin, and, in a header that is long enough for it, how many bytes they have."""

    def is_whole(content: bytes) -> bool:
        (tmp_path / "x.pte").write_bytes(content)
        return runtime_predictors._is_whole_executorch(tmp_path / "x.pte")

    numbers = b"".join(number.to_bytes(8, "little") for number in (120, 100, 150))
    head = b"\x1c\0\0\0ET12eh00" + length.to_bytes(4, "little") + numbers
    assert is_whole(head + bytes(needed - len(head)))
    assert not is_whole(head + bytes(needed - len(head) - 1))
    assert not is_whole(bytes(31)) and is_whole(bytes(32))


def test_the_parts_of_a_tensorrt_file(tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(runtime_predictors.tensorrt_head(FULL) + b"engine\0\xff")
    assert runtime_predictors._tensorrt_parts(tmp_path / "x.engine") == (FULL, b"engine\0\xff")
    assert file_kind(tmp_path / "x.engine") == "tensorrt"


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "17"},
        {"batch": '"many"'},
        {"precision": "fp4"},
        {"preprocessing": "{}"},
        {"num_classes": "null"},
        {"classes": "["},
        {"dynamic_size": "1"},
        {"normalised_inside": "null"},
        {"batch": "true"},
    ],
)
def test_metadata_that_are_none_of_ours(change: dict[str, str]) -> None:
    strings = Metadata("a", Preprocessing((28, 28)), ("x",), 1).to_strings()
    assert Metadata.from_strings(strings).classes == ("x",)
    with pytest.raises(ValueError):
        Metadata.from_strings(strings | change)
    with pytest.raises(ValueError, match="without"):
        Metadata.from_strings({key: value for key, value in strings.items() if key != next(iter(change))})


def test_weights_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("<net />")
    (tmp_path / "net.bin").mkdir()
    with pytest.raises(ProgramError, match=r"net\.bin: cannot be read \(it is not a regular file\)"):
        runtime_predictors._check_pair(tmp_path / "net.xml")
