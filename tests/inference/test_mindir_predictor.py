"""The process around MindSpore, with a stand-in for it: answers, refusals, crashes, and nothing left running.

`make test-mindspore` does the same with the real package.
"""

import sys
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import ProgramError, UserError
from t2t_vit.formats.mindir import GraphWriter
from t2t_vit.inference import foreign_process
from t2t_vit.inference.exported import ExportedPredictor, Metadata
from t2t_vit.inference.foreign_process import ForeignProcess, Limits
from t2t_vit.inference.load import load
from t2t_vit.inference.mindir_predictor import VARIABLE, mindspore_python

STAND_IN = """
import os, sys, time
from types import SimpleNamespace
import numpy
__version__ = "9.9"
print("a word on standard output")
class Tensor:
    def __init__(self, values): self.values = values
    def asnumpy(self): return self.values
def load(path):
    assert path.endswith(".mindir")
    if b"refused" in open(path, "rb").read(): raise RuntimeError("Load MindIR failed.\\n----\\nC++ stack")
    return path
class GraphCell:
    def __init__(self, graph): self.graph = graph
    def __call__(self, images):
        print("more words")
        what = os.environ.get("STAND_IN", "")
        if what == "crash": os.kill(os.getpid(), 11)
        if what == "fork" and os.fork(): time.sleep(3600)
        if what in ("hang", "fork"): time.sleep(3600)
        if what == "leave": sys.stderr.write("the reason\\n"); sys.exit(3)
        pixels = images.values.astype("float64")
        sums = pixels.reshape(len(pixels), -1).sum(1)
        if what == "stuck": sums = sums[:1]
        return Tensor(numpy.stack([sums, -sums], 1))
nn = SimpleNamespace(GraphCell=GraphCell)
"""


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "mindspore.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv(VARIABLE, sys.executable)


def file(path: Path, arch: str = "a", **kind: object) -> Path:
    metadata = Metadata(arch, Preprocessing((4, 6), in_chans=1), ("no", "yes"), 2, **kind)  # type: ignore[arg-type]
    graph = GraphWriter()
    graph.output(graph.input("images", (-1, 1, 4, 6), "float32"), (-1, 2), "float32")
    path.write_bytes(graph.to_bytes(metadata.to_strings(), "t2t_vit", "1"))
    return path


def images(count: int) -> torch.Tensor:
    return torch.arange(count * 24).reshape(count, 1, 4, 6).byte()


def test_predictions_by_the_one_door(tmp_path: Path) -> None:
    predictor = load(file(tmp_path / "named as you like"))
    assert predictor.classes == ("no", "yes")
    for count in (1, 3, 2):
        given = images(count)
        sums = predictor.preprocessing.normalize(given).double().flatten(1).sum(1)
        assert len(sums.unique()) == count
        torch.testing.assert_close(predictor.logits(given), torch.stack([sums, -sums], 1).float())
        normalised = predictor.preprocessing.normalize(given)
        assert isinstance(predictor, ExportedPredictor)
        torch.testing.assert_close(predictor.logits_of_normalised(normalised), predictor.logits(given))


def test_a_fixed_batch_and_pixels(tmp_path: Path) -> None:
    predictor = load(file(tmp_path / "x.mindir", batch=4, normalised_inside=True))
    sums = images(6).double().flatten(1).sum(1)
    torch.testing.assert_close(predictor.logits(images(6)), torch.stack([sums, -sums], 1).float())
    assert isinstance(predictor, ExportedPredictor)
    normalised = predictor.preprocessing.normalize(images(6))
    torch.testing.assert_close(predictor.logits_of_normalised(normalised)[:, 0], sums.float())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crash", r"^MindSpore crashes \(signal 11\) for 2 images"),
        ("leave", r"^MindSpore ends with code 3 for 2 images: the reason"),
        ("hang", r"^takes longer than 1 s for 2 images"),
        ("stuck", r"^answers 2 images in the shape \(1, 2\), not \(2, 2\)"),
        ("fork", r"^takes longer than 1 s for 2 images"),
    ],
)
def test_what_goes_wrong_is_told(what: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", what)
    process = ForeignProcess("mindir", "MindSpore", file(tmp_path / "x.mindir"), python=sys.executable)
    assert process.version == "9.9"
    if what in ("hang", "fork"):
        process._limits = Limits(seconds=1)  # once it is there, which takes a while on a busy machine
    with pytest.raises(ProgramError, match=said):
        process.run(np.zeros((2, 1, 4, 6), np.float32), (2, 2))
    process.close()


def test_the_last_words_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads them may come later than the end of the process."""

    def late(pipe: IO[bytes], printed: list[bytes]) -> None:
        with pipe:
            while line := pipe.readline():
                time.sleep(0.2)
                printed.append(line)

    monkeypatch.setattr(foreign_process, "_collect", late)
    monkeypatch.setenv("STAND_IN", "leave")
    process = ForeignProcess("mindir", "MindSpore", file(tmp_path / "x.mindir"), python=sys.executable)
    with pytest.raises(ProgramError, match="ends with code 3 for 1 image: the reason"):
        process.run(np.zeros((1, 1, 4, 6), np.float32), (1, 2))


def test_a_file_that_mindspore_refuses(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"cannot be loaded by MindSpore \(RuntimeError: Load MindIR failed\.\); it"):
        load(file(tmp_path / "x.mindir", arch="refused"))


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    whole = file(tmp_path / "x.mindir").read_bytes()
    (tmp_path / "cut.mindir").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bare.mindir").write_bytes(whole[: whole.index(b"producer") - 4])
    for name in ("cut", "bare"):
        with pytest.raises(UserError, match="was not exported by t2t_vit, or is damaged"):
            load(tmp_path / f"{name}.mindir")


def test_without_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path / "x.mindir")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no python"))
    with pytest.raises(UserError, match=f"{VARIABLE} '.*no python': is not a program"):
        load(path)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("t2t_vit.inference.mindir_predictor.importlib.util.find_spec", lambda _: None)
    assert mindspore_python() is None
    with pytest.raises(UserError, match=r'pip install "mindspore==.*" "numpy<2", or give the Python'):
        load(path)
