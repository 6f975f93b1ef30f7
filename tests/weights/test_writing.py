"""Weights from one format into another."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.formats.safetensors_file import write_safetensors_file
from t2t_vit.model import create_model
from t2t_vit.weights import convert_weights, read_weights
from t2t_vit.weights.show import _network, shown
from t2t_vit.weights.writing import _without_neighbours

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mindspore"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save({"state_dict": create_model("t2t_vit_7", num_classes=3).state_dict()}, tmp_path / "w.pth.tar")
    return tmp_path / "w.pth.tar"


@pytest.mark.parametrize(
    ("name", "asked", "kind"),
    [
        ("x.ckpt", None, "mindspore"),
        ("x.safetensors", None, "safetensors"),
        ("x.pth", None, "torch"),
        ("x.PT", None, "torch"),
        ("x.bin", None, "torch"),
        ("x.pth.tar", None, "torch"),
        ("x.ckpt", "torch", "torch"),
        ("x.pth", "mindspore", "mindspore"),
        ("x", "safetensors", "safetensors"),
    ],
)
def test_the_ending_decides_unless_asked(source: Path, tmp_path: Path, name: str, asked: str | None, kind: str) -> None:
    _, written = convert_weights(source, tmp_path / name, format=asked)
    before, after = read_weights(source).tensors, read_weights(tmp_path / name)
    assert written == after.kind == kind
    assert list(after.tensors) == list(before) or kind == "safetensors"
    assert all(torch.equal(after.tensors[key], before[key]) for key in before)


def test_a_chain_through_all_formats_is_exact(source: Path, tmp_path: Path) -> None:
    for before, after in (("w.pth.tar", "a.ckpt"), ("a.ckpt", "b.safetensors"), ("b.safetensors", "c.ckpt")):
        convert_weights(tmp_path / before, tmp_path / after)
    convert_weights(tmp_path / "c.ckpt", tmp_path / "d.pth")
    state = torch.load(tmp_path / "d.pth", weights_only=True)
    expected = read_weights(source).tensors
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) and state[key].dtype == expected[key].dtype for key in state)


def test_what_cannot_be_done(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.h5: its ending does not give a format; end it in .ckpt, .safetensors"):
        convert_weights(source, tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"format 'onnx' is not known; choose one of mindspore, safetensors, torch"):
        convert_weights(source, tmp_path / "x.ckpt", format="onnx")
    with pytest.raises(UserError, match="is a folder; give the file to write"):
        convert_weights(source, tmp_path, format="torch")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e5m2)}, tmp_path / "f8.pth")
    with pytest.raises(UserError, match=r"MindSpore has no type for a, which is torch\.float8_e5m2"):
        convert_weights(tmp_path / "f8.pth", tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()


LAST = [39_997, 39_998, 39_999]


def test_the_copy_that_is_asked_for_and_no_more(tmp_path: Path) -> None:
    whole = torch.arange(40_000.0)
    copies = {"state_dict": {"a": whole[:3]}, "state_dict_ema": {"a": whole[-3:]}}
    torch.save(copies, tmp_path / "w.pth")
    for which, expected in (("raw", [0, 1, 2]), ("ema", LAST), ("auto", LAST)):
        convert_weights(tmp_path / "w.pth", tmp_path / "x.pt", which=which)  # type: ignore[arg-type]
        assert torch.load(tmp_path / "x.pt", weights_only=True)["a"].tolist() == expected
        assert (tmp_path / "x.pt").stat().st_size < 10_000  # not all that the tensor was a part of


def test_files_are_written_without_a_second_copy_in_memory(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2**21), "b": torch.zeros(2**21)}
    write_safetensors_file({"a": torch.zeros(3)}, tmp_path / "w")  # what is imported for it
    tracemalloc.start()
    write_safetensors_file(tensors, tmp_path / "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * (tmp_path / "w").stat().st_size
    # Torch's memory is not traced.
    whole, view = tensors["a"], tensors["b"][:3]
    assert _without_neighbours(whole).data_ptr() == whole.data_ptr()
    assert _without_neighbours(view).untyped_storage().nbytes() == 12


def test_what_is_shown(tmp_path: Path) -> None:
    tensors = {"bias": torch.tensor(1.0), "w": torch.zeros(2, 3).half()}
    write_safetensors_file(tensors, tmp_path / "w", {"classes": list("abcdefghij")})
    lines = shown(tmp_path / "w").splitlines()
    assert "classes    a, b, c, d, e, f, g, h, ... (10)" in lines
    assert "tensors    2, 7 numbers, 16 bytes" in lines
    assert [line.split() for line in lines[-2:]] == [["bias", "single", "float32"], ["w", "2", "x", "3", "float16"]]
    write_safetensors_file(
        {"w": tensors["bias"]}, tmp_path / "v", {"config": {"arch": "x\x1b[2J"}, "classes": list("ab")}
    )
    lines = shown(tmp_path / "v").splitlines()
    assert "config     arch: x?[2J" in lines and "classes    a, b" in lines


def test_a_file_may_take_its_own_place(source: Path, tmp_path: Path) -> None:
    expected = {name: tensor.clone() for name, tensor in read_weights(source).tensors.items()}
    convert_weights(source, source, format="mindspore")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_weights(source).tensors.items())
    assert tmp_path.exists()


def test_the_metadata_of_safetensors(source: Path, tmp_path: Path) -> None:
    convert_weights(source, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_command_converts_and_says_what_it_did(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "x.ckpt")
    assert main(["weights", "convert", str(source), target]) == 0
    assert capsys.readouterr() == (f"{target}: 111 tensors written as mindspore\n", "")
    assert main(["weights", "convert", str(source), target, "--format", "torch"]) == 0
    assert capsys.readouterr().out == f"{target}: 111 tensors written as torch, replacing the existing file\n"


def test_the_command_shows(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "show", str(source)]) == 0
    out = capsys.readouterr().out
    assert "kind       torch.save" in out
    assert "network    t2t_vit_7, 3 classes, 3 channels, 224 x 224 pixels" in out
    tensors = [re.split("  +", line.strip()) for line in out.splitlines() if line.startswith("  ")]
    assert len(tensors) == 111
    assert ["cls_token", "1 x 1 x 256", "float32"] in tensors
    assert ["head.weight", "3 x 256", "float32"] in tensors
    assert main(["weights", "show", str(FIXTURES / "adam.ckpt")]) == 0
    out = capsys.readouterr().out
    assert "kind       MindSpore" in out and "state      global_step, learning_rate" in out and "not known" in out


@pytest.mark.parametrize(
    ("known", "pixels"),
    [
        ({"image_size": 28}, "28 x 28 pixels"),
        ({"image_size": [24, 40]}, "24 x 40 pixels"),
        ({"image_size": "wide"}, "32 x 32 pixels (from the number of positions; others also fit)"),
        ({}, "32 x 32 pixels (from the number of positions; others also fit)"),
    ],
)
def test_the_size_is_the_configurations(known: dict[str, object], pixels: str, tmp_path: Path) -> None:
    """Images of 25 to 32 pixels have the same positions."""
    model = create_model("t2t_vit_quickstart", num_classes=2, image_size=28)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    lines = _network(replace(read_weights(tmp_path / "model.safetensors"), config=known or None)).split(", ", 3)
    assert lines[0] == "t2t_vit_quickstart" and lines[3] == pixels


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shaw", "x"], "weights takes show or convert; not 'shaw'"),
        (["show"], "weights show needs FILE"),
        (["show", "absent.pth"], "no such file"),
        (["show", "a", "--format", "torch"], "--format has no effect with show"),
        (["convert", "a"], "weights convert needs NEW_FILE"),
        (["show", "a", "--nonsense"], "unknown option '--nonsense'"),
        (["convert", "a", "b", "--form", "torch"], "unknown option '--form'; did you mean '--format'?"),
    ],
)
def test_mistakes_on_the_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["convert", "-h"]):
        with pytest.raises(SystemExit) as ended:
            main(["weights", *words])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith("Usage: t2t-vit weights show FILE")
    assert main(["--help"]) == 0
    assert "  weights     show the contents of a weights file, or convert it\n" in capsys.readouterr().out


def test_of_many_tensors_the_first_are_shown(tmp_path: Path) -> None:
    """The table of a hundred thousand would take half a minute."""
    save_file({f"w{number:04d}": torch.zeros(1) for number in range(5_003)}, tmp_path / "w.safetensors")
    lines = shown(tmp_path / "w.safetensors").splitlines()
    assert lines[-2].split() == ["w4999", "1", "float32"]
    assert lines[-1] == "  ... and 3 more"
