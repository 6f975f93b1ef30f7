"""Every format is written, proven, and opens again through the one door, with the network's answers."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import onnx
import openvino
import pytest
import torch
import torch._inductor
from PIL import Image
from torch import nn
from torch._inductor.exc import CppCompileError

import t2t_vit
from mindspore_networks import spread
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.export import torch_formats
from t2t_vit.export.file_formats import FORMATS, find_format
from t2t_vit.export.graph_form import CentredNorm, graph_form
from t2t_vit.export.job import ExportJob, Kind
from t2t_vit.export.onnx import onnx_model, write_openvino
from t2t_vit.export.torch_formats import write_aoti, write_safetensors
from t2t_vit.export.write import Evidence, Exported, Speed, export_model, speed_of
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.inference.runtime_predictors import _check_pair
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


@pytest.mark.parametrize(
    "file_format",
    [
        pytest.param(name, marks=pytest.mark.thorough) if name in ("AOTI", "EXECUTORCH", "PT2") else name
        for name in KINDS
    ],
)
def test_it_is_written_proven_and_opened(
    file_format: str, trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    done = written(trained, few, tmp_path, file_format)
    assert done.unverified is None and done.agreement is not None and done.agreement.is_acceptable
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


@pytest.mark.parametrize(
    "file_format",
    ["ONNX", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("OPENVINO", "PT2")), "SAFETENSORS"],
)
def test_half_the_bytes_and_the_same_answers(
    file_format: str, trained: TorchPredictor, evidence: Evidence, tmp_path: Path
) -> None:
    some = Evidence(evidence.images[:200])
    done = written(trained, some, tmp_path, file_format, Kind("fp16"))
    assert done.agreement is not None and 0 < done.agreement.largest_difference < 0.1
    assert done.agreement.top1_agreement >= 0.99
    weights = sum(tensor.numel() for tensor in trained.model.state_dict().values())
    assert done.size < 2 * weights * 1.25


@pytest.mark.parametrize("file_format", ["ONNX", pytest.param("OPENVINO", marks=pytest.mark.thorough)])
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
    if file_format == "ONNX":
        check_quantised_onnx(onnx.load(done.path).graph, trained, evidence)
    else:
        check_quantised_openvino(done.path)


def check_quantised_onnx(graph: onnx.GraphProto, trained: TorchPredictor, evidence: Evidence) -> None:
    """The four products of a block and no others are in int8, by a range a channel, and activations by the range that
    they have on the calibration images."""
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes, scales = [], []
    for node in graph.node:
        sources = [made.get(name) for name in node.input[:2]]
        if node.op_type in ("MatMul", "Gemm", "Conv") and any(each and "Linear" in each.op_type for each in sources):
            activation, weight = (each for each in sources if each)
            assert activation.op_type == weight.op_type == "DequantizeLinear"
            values, scale = (constants[name] for name in weight.input[:2])
            assert values.dtype == "int8" and scale.shape == values.shape[1:]
            shapes.append(values.shape)
            scales.append(float(constants[activation.input[1]]))
    blocks = list(trained.model.blocks)
    layers = [layer for block in blocks for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)]
    assert shapes == [tuple(reversed(layer.weight.shape)) for layer in layers]
    seen: list[torch.Tensor] = []
    hook = blocks[0].norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert evidence.calibration is not None
    with torch.no_grad():
        trained.model(trained.preprocessing.normalize(evidence.calibration))
    hook.remove()
    assert scales[0] == pytest.approx(float(seen[0].max() - seen[0].min()) / 255, rel=0.01)


PRODUCTS = ("MatMul", "Convolution")


def check_quantised_openvino(path: Path) -> None:
    """The tokens-to-token module, with the convolution at its end, and the head stay float."""
    products = [op for op in openvino.Core().read_model(str(path)).get_ops() if op.get_type_name() in PRODUCTS]
    quantised = {op.get_friendly_name(): _is_quantised(op) for op in products}
    assert sum(quantised.values()) == 4 * 4
    (convolution,) = [op for op in products if op.get_type_name() == "Convolution"]
    (head,) = [op for op in products if str(op.get_output_partial_shape(0)[-1]) == "10"]
    assert not quantised[convolution.get_friendly_name()] and not quantised[head.get_friendly_name()]


def _is_quantised(product: openvino.Node) -> bool:
    return any(one.get_source_output().get_node().get_type_name() == "FakeQuantize" for one in product.inputs())


def test_options_of_an_onnx_file(trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    done = written(trained, few, tmp_path, "ONNX", Kind(batch=4, normalised_inside=True))
    (given,) = onnx.load(done.path).graph.input
    shape = [side.dim_value for side in given.type.tensor_type.shape.dim]
    assert shape == [4, 1, 28, 28] and given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    loaded = t2t_vit.load(done.path)
    torch.testing.assert_close(loaded.logits(few.images[:7]), trained.logits(few.images[:7]), atol=1e-4, rtol=1e-4)


@pytest.mark.thorough
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
        ("PT2", Kind(dynamic_size=True), "PT2 has a fixed image size"),
        ("SAFETENSORS", Kind(batch=2), "holds only weights"),
        ("SAFETENSORS", Kind(normalised_inside=True), "holds only weights"),
        ("OPENVINO", Kind("fp8"), "OPENVINO has no precision fp8; choose fp32 or fp16 or int8"),  # type: ignore[arg-type]
        ("TENSORRT", Kind(), "this machine has none: nothing was written.*trtexec"),
        ("AIR", Kind(), "nothing was written"),
    ],
)
def test_what_a_format_cannot_be(
    file_format: str, kind: Kind, expected: str, trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    if file_format == "TENSORRT" and torch.cuda.is_available():
        pytest.skip("an NVIDIA GPU is here, on which TensorRT writes files")
    with pytest.raises(UserError, match=expected):
        written(trained, few, tmp_path, file_format, kind)
    assert list(tmp_path.iterdir()) == []


OTHERS = (
    "t2t_vit_t_14 t2t_vit_14_resnext t2t_vit_14_wide t2t_vit_14_se t2t_vit_dense t2t_vit_16_ghost t2t_vit_c_14 "
    "t2t_vit_s_6"
)


@pytest.mark.parametrize(
    "arch", ["t2t_vit_7", *(pytest.param(arch, marks=pytest.mark.thorough) for arch in OTHERS.split())]
)
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


@pytest.mark.thorough
def test_the_graph_is_smaller_than_the_plain_one(shallow: Callable[[str], T2TViT]) -> None:
    job = ExportJob(shallow("t2t_vit_7"), Metadata("t2t_vit_7", Preprocessing((32, 48)), None, 5), torch.empty(0))
    plain, ours = (Counter(node.op_type for node in onnx_model(job, by_slices=by).graph.node) for by in (False, True))
    assert plain["Gather"] > ours["Gather"] <= 1  # that of the class token
    assert ours.total() < plain.total()
    assert ours["Gelu"] == 2 + 2 and "Erf" not in ours and "AveragePool" not in ours
    assert ours["Softmax"] == 2 and ours["MatMul"] < 40


# No two channels alike.
COLOURS = Preprocessing((32, 48), mean=(0.3, 0.5, 0.6), std=(0.2, 0.25, 0.4))
PIXELS = torch.randint(256, (3, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def form_of(model: T2TViT, *, by_slices: bool = True, centred_norms: bool = False, **kind: object) -> nn.Module:
    job = ExportJob(model, Metadata(model.name, COLOURS, None, 5, **kind), torch.empty(0))  # type: ignore[arg-type]
    return graph_form(job, by_slices=by_slices, centred_norms=centred_norms)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["t2t_vit_7", "t2t_vit_t_14", "t2t_vit_c_14"])
@pytest.mark.parametrize("by_slices", [True, False])
@pytest.mark.parametrize("centred_norms", [True, False])
def test_the_form_is_the_network_and_leaves_it_alone(
    arch: str, by_slices: bool, centred_norms: bool, shallow: Callable[[str], T2TViT]
) -> None:
    model = spread(shallow(arch))
    before, modules = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    images = COLOURS.normalize(PIXELS)
    expected = model(images)
    form = form_of(model, by_slices=by_slices, centred_norms=centred_norms)
    assert not form.training
    torch.testing.assert_close(form(images), expected, atol=1e-3, rtol=1e-4)
    assert centred_norms != any(isinstance(module, nn.LayerNorm) for module in form.modules())
    assert [type(module) for module in model.modules()] == modules
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@torch.no_grad()
def test_the_form_of_every_kind(shallow: Callable[[str], T2TViT]) -> None:
    model = spread(shallow("t2t_vit_7"))
    images = COLOURS.normalize(PIXELS)
    expected = model(images)
    torch.testing.assert_close(form_of(model, normalised_inside=True)(PIXELS), expected, atol=1e-3, rtol=1e-4)
    half = form_of(model, precision="fp16")
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float16}
    assert half(images).dtype == torch.float32
    torch.testing.assert_close(half(images), expected, atol=0.5, rtol=0.02)
    model.other_sizes = "resize"
    any_size = form_of(model, dynamic_size=True)
    for size in ((32, 48), (48, 32), (64, 80)):
        resized = nn.functional.interpolate(images, size)
        torch.testing.assert_close(any_size(resized), model(resized), atol=1e-3, rtol=1e-4)


def test_a_centred_norm_is_the_norm_of_flat_windows_too() -> None:
    norm = nn.LayerNorm(6, eps=3e-4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        norm.bias.copy_(torch.arange(6.0).cos())
    rows = torch.stack([torch.full((6,), 2.5), 2.5 + 0.01 * torch.arange(6.0).sin(), torch.arange(6.0) - 9]).double()
    torch.testing.assert_close(CentredNorm(norm)(rows[None]), norm(rows[None]))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("batch", "sizes"), [(0, [1, 1, 1, 1, 1]), (2, [2, 2])])
def test_calibration_images_are_as_the_file_takes_them(
    inside: bool, batch: int, sizes: list[int], shallow: Callable[[str], T2TViT]
) -> None:
    images = torch.cat([PIXELS, PIXELS[:2].flip(3)])
    kind = {"precision": "int8", "batch": batch, "normalised_inside": inside}
    job = ExportJob(shallow("t2t_vit_7"), Metadata("t2t_vit_7", COLOURS, None, 5, **kind), images)  # type: ignore[arg-type]
    given = list(job.calibration_inputs())
    assert [len(each) for each in given] == sizes
    expected = images if inside else COLOURS.normalize(images)
    assert torch.equal(torch.cat(given), expected[: sum(sizes)]) and given[0].dtype == expected.dtype
    assert job.in_float32().metadata == replace(job.metadata, precision="fp32")
    example = job.example()
    assert (tuple(example.shape), example.dtype) == ((batch or 2, 3, 32, 48), expected.dtype)


def test_files_say_nothing_of_the_machine_that_made_them(
    trained: TorchPredictor, few: Evidence, tmp_path: Path
) -> None:
    done = written(trained, few, tmp_path, "ONNX")
    assert b".py" not in done.path.read_bytes()


def test_a_file_in_figures(trained: TorchPredictor, few: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that loading and computing move on."""
    now = [100.0]

    class Slow(TorchPredictor):
        def logits(self, images: torch.Tensor) -> torch.Tensor:
            now[0] += 0.25
            return torch.zeros(len(images), 10)

    def opened(path: Path, _: object = None) -> TorchPredictor:
        assert path == Path("x.onnx")
        now[0] += 2.0
        return Slow(trained.model, trained.preprocessing, None)

    monkeypatch.setattr("t2t_vit.export.write.time.perf_counter", lambda: now[0])
    monkeypatch.setitem(FORMATS, "ONNX", replace(FORMATS["ONNX"], open=opened))
    exported = Exported(Path("x.onnx"), None)
    assert speed_of(exported, few.images) == Speed(load_seconds=2.0, images_per_second=8 / 0.25)
    assert speed_of(exported, few.images.repeat(9, 1, 1, 1)).images_per_second == 32 / 0.25  # in batches of up to 32


def test_the_size_of_a_file_is_that_of_all_its_files(tmp_path: Path) -> None:
    for name, size in (("a.xml", 3), ("a.bin", 40)):
        (tmp_path / name).write_bytes(bytes(size))
    assert Exported(tmp_path / "a.xml", None, files=(tmp_path / "a.bin", tmp_path / "a.xml")).size == 43


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("as: x.o: No space left on device\n", "temporary files .* is full; make room there, or set TMPDIR"),
        ("x.cpp: In f:\nx.cpp:1:2: error: no \x1bh\n", r"the C\+\+ compiler fails \(x.cpp:1:2: error: no \\x1bh\)"),
        ("", "compiler fails"),
    ],
)
def test_a_compiler_that_fails_is_not_called_missing(
    output: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise CppCompileError(["g++"], output)

    monkeypatch.setattr(torch_formats, "traced", lambda *_: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fails)
    with pytest.raises(UserError, match=expected):
        write_aoti(Mock(), tmp_path / "a.pt2")


@pytest.mark.parametrize("approximate", [False, True])
def test_safetensors_say_which_gelu_it_is(approximate: bool, tmp_path: Path) -> None:
    model = t2t_vit.create_model(ARCH, image_size=28, num_classes=3, approximate_gelu=approximate)
    preprocessing = Preprocessing((28, 28), 0.8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    write_safetensors(
        ExportJob(model, Metadata(ARCH, preprocessing, ("a", "b", "c"), 3), torch.empty(0)), tmp_path / "x"
    )
    loaded = t2t_vit.load(tmp_path / "x")
    assert isinstance(loaded, TorchPredictor) and isinstance(loaded.model, T2TViT)
    assert loaded.model.approximate_gelu is approximate
    assert (loaded.preprocessing, loaded.classes) == (preprocessing, ("a", "b", "c"))


def test_the_table_is_the_configuration_s() -> None:
    from t2t_vit.settings.schema import FILE_FORMATS

    assert {*FORMATS, "all"} == set(FILE_FORMATS)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt(precision: str, trained: TorchPredictor, few: Evidence, tmp_path: Path) -> None:
    done = written(trained, few, tmp_path, "TENSORRT", Kind(precision))  # type: ignore[arg-type]
    assert done.agreement is not None and done.agreement.is_acceptable
    with pytest.raises(UserError, match="native code"):
        t2t_vit.load(done.path)
    loaded = t2t_vit.load(done.path, allow_native_code=True)
    assert [one.index for one in loaded.classify(list(few.images))] == [
        one.index for one in trained.classify(list(few.images))
    ]


def test_two_exports_of_one_network_do_not_fit_each_other(
    shallow: Callable[[str], T2TViT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In int8 they may differ by their calibration images alone."""
    weights = onnx.numpy_helper.from_array(torch.ones(3, 3).numpy(), "weights")
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("images", "logits")]
    node = onnx.helper.make_node("MatMul", ["images", "weights"], ["logits"])
    graph = onnx.helper.make_graph([node], "net", sides[:1], sides[1:], [weights])
    small = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    monkeypatch.setattr("t2t_vit.export.onnx.onnx_model", lambda _: small)
    job = ExportJob(shallow("t2t_vit_7"), Metadata("t2t_vit_7", COLOURS, None, 5), PIXELS)
    for name in ("one", "other"):
        write_openvino(job, tmp_path / f"{name}.xml")
        _check_pair(tmp_path / f"{name}.xml")
    (tmp_path / "one.bin").replace(tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"other\.xml: was not exported together with other\.bin"):
        _check_pair(tmp_path / "other.xml")
