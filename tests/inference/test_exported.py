"""Files that a stranger hands in as exported ones: one sentence each, and nothing of them is run that should not be."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export.job import Job
from t2t_vit.export.torch_program import write_pt2
from t2t_vit.inference.load import is_exported
from t2t_vit.inference.metadata import Metadata
from t2t_vit.inference.pt2_predictor import Pt2Predictor
from t2t_vit.model import T2TViT
from t2t_vit.weights import file_kind, read_weights

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def network() -> T2TViT:
    torch.manual_seed(0)
    return t2t_vit.create_model("t2t_vit_quickstart", image_size=28, num_classes=3).eval()


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    metadata = Metadata("t2t_vit_quickstart", Preprocessing((28, 28)), ("a", "b", "c"), 3)
    write_pt2(Job(network(), metadata, torch.empty(0)), path)
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


def test_another_operator_is_not_run(pt2: Path, tmp_path: Path) -> None:
    for target in ("torch.ops.aten.from_file.default", "_operator.getitem", "torch.load", "torch.ops.prims.x.default"):

        def change(program: Any, target: str = target) -> Any:
            program["graph_module"]["graph"]["nodes"][3]["target"] = target
            return program

        with pytest.raises(UserError, match=f"calls {target}, which no T2T-ViT does"):
            t2t_vit.load(changed(pt2, tmp_path / "x.pt2", MODEL, change))


def test_strings_of_the_file_are_not_evaluated(pt2: Path, tmp_path: Path) -> None:
    """torch.export.load would give them to sympify, which evaluates, or to exec."""
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"

    def change(program: Any) -> Any:
        symbols = program["graph_module"]["graph"]["sym_int_values"]
        for value in symbols.values():
            value["as_expr"]["expr_str"] = code
        program["guards_code"] = [code]
        return program

    loaded = t2t_vit.load(changed(pt2, tmp_path / "x.pt2", MODEL, change))
    assert loaded.predict(Image.new("RGB", (30, 30))).name in ("a", "b", "c")
    assert not trap.exists()


def test_a_pickled_weight_is_refused(pt2: Path, tmp_path: Path) -> None:
    def change(config: Any) -> Any:
        next(iter(config["config"].values()))["use_pickle"] = True
        return config

    with pytest.raises(UserError, match="damaged program"):
        t2t_vit.load(changed(pt2, tmp_path / "x.pt2", WEIGHTS, change))


@pytest.mark.parametrize("key", ["sizes", "strides"])
def test_a_weight_past_its_bytes_is_refused(key: str, pt2: Path, tmp_path: Path) -> None:
    def change(config: Any) -> Any:
        next(iter(config["config"].values()))["tensor_meta"][key][0]["as_int"] = 10**7
        next(iter(config["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 10**7
        return config

    with pytest.raises(UserError, match="damaged program"):
        t2t_vit.load(changed(pt2, tmp_path / "x.pt2", WEIGHTS, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda _: [],
        lambda program: program | {"graph_module": {"graph": {"nodes": [], "outputs": []}, "signature": {}}},
    ],
)
def test_another_program(change: Callable[[Any], Any], pt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged program"):
        t2t_vit.load(changed(pt2, tmp_path / "x.pt2", MODEL, change))


def test_a_program_that_does_not_run(pt2: Path, tmp_path: Path) -> None:
    def change(program: Any) -> Any:
        program["graph_module"]["graph"]["outputs"][0]["as_tensor"]["name"] = "nothing"
        return program

    loaded = t2t_vit.load(changed(pt2, tmp_path / "x.pt2", MODEL, change))
    with pytest.raises(UserError, match="does not run on images"):
        loaded.predict(Image.new("RGB", (30, 30)))


def test_programs_that_were_cut_short_or_come_from_elsewhere(pt2: Path, tmp_path: Path) -> None:
    content = pt2.read_bytes()
    for length in (10, 1000, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.pt2").write_bytes(content[:length])
        with pytest.raises(UserError):
            t2t_vit.load(tmp_path / "cut.pt2")
    spoilt = bytearray(content)
    spoilt[200:204] = b"\xff\xff\xff\xff"  # in the first weight
    (tmp_path / "spoilt.pt2").write_bytes(spoilt)
    with pytest.raises(UserError, match="damaged"):
        t2t_vit.load(tmp_path / "spoilt.pt2")
    foreign = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), foreign)
    (tmp_path / "foreign.pt2").write_bytes(foreign.getvalue())
    with pytest.raises(UserError, match="was not exported by t2t_vit"):
        t2t_vit.load(tmp_path / "foreign.pt2")
    assert is_exported(tmp_path / "foreign.pt2")


def test_an_exported_file_is_no_checkpoint(pt2: Path) -> None:
    with pytest.raises(UserError, match="exported program, which infer and eval run, but no checkpoint"):
        read_weights(pt2)


def test_native_code_runs_only_when_asked_for_by_name(pt2: Path, tmp_path: Path) -> None:
    shutil.copy(pt2, tmp_path / "code.pt2")
    with zipfile.ZipFile(tmp_path / "code.pt2", "a") as archive:
        archive.writestr("archive/data/aotinductor/model/x.so", b"\x7fELF")
    assert file_kind(tmp_path / "code.pt2") == "aoti"
    with pytest.raises(UserError, match=r"native code.*--allow_native_code"):
        t2t_vit.load(tmp_path / "code.pt2")
    with pytest.raises(UserError, match="cannot be loaded here"):
        t2t_vit.load(tmp_path / "code.pt2", allow_native_code=True)


def test_names_that_lie(tmp_path: Path) -> None:
    for name, said in (("x.onnx", "ONNX"), ("x.xml", "OpenVINO"), ("x.pte", "ExecuTorch")):
        (tmp_path / name).write_text("hello\n")
        with pytest.raises(UserError, match=f"is not an {said}"):
            t2t_vit.load(tmp_path / name)


def test_openvino_files_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<net name="x" version="11"><layers/></net>\n')
    with pytest.raises(UserError, match=r"its weights, a.bin, are missing beside it"):
        t2t_vit.load(tmp_path / "a.xml")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"OpenVINO cannot load|was not exported by t2t_vit"):
        t2t_vit.load(tmp_path / "a.xml")


def test_executorch_files_from_elsewhere(tmp_path: Path) -> None:
    head = b"\x1c\0\0\0ET12eh00" + (32).to_bytes(4, "little") + (10**6).to_bytes(8, "little") + bytes(16)
    (tmp_path / "a.pte").write_bytes(head + bytes(100))
    with pytest.raises(UserError, match="cut short"):
        t2t_vit.load(tmp_path / "a.pte")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "17"},
        {"batch": '"many"'},
        {"precision": "fp4"},
        {"preprocessing": "{}"},
        {"num_classes": "null"},
        {"classes": "["},
    ],
)
def test_metadata_that_are_none_of_ours(change: dict[str, str]) -> None:
    strings = Metadata("a", Preprocessing((28, 28)), ("x",), 1).to_strings()
    assert Metadata.from_strings(strings).classes == ("x",)
    with pytest.raises(ValueError):
        Metadata.from_strings(strings | change)
    with pytest.raises(ValueError, match="without"):
        Metadata.from_strings({key: value for key, value in strings.items() if key != next(iter(change))})
