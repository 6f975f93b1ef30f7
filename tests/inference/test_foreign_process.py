"""Exported files that loop, fill the memory, crash or answer nonsense: one sentence each, and no process is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

import t2t_vit
from exported_graphs import (
    INT64,
    MEANS,
    OF_A_COMMAND,
    endless_onnx,
    graph_file,
    long_onnx,
    long_openvino,
    mean_onnx,
    mean_openvino,
    means,
    node,
    numbers_onnx,
)
from t2t_vit.cli.main import main
from t2t_vit.errors import ProgramError
from t2t_vit.inference.foreign_predictor import ForeignPredictor
from t2t_vit.inference.foreign_process import Limits
from t2t_vit.inference.runner import INPUT, OUTPUT

IMAGES = torch.arange(2 * 72, dtype=torch.uint8).view(2, 3, 4, 6)


def opened(path: Path, **limits: float) -> ForeignPredictor:
    predictor = t2t_vit.load(path, **limits)  # type: ignore[arg-type]
    assert isinstance(predictor, ForeignPredictor)
    return predictor


def is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_several_threads_are_answered_in_turn(tmp_path: Path) -> None:
    predictor = opened(mean_onnx(tmp_path / "x.onnx"))
    expected = MEANS.preprocessing.normalize(IMAGES).mean((2, 3))

    def ask(turn: int) -> list[torch.Tensor]:
        return [predictor.logits(IMAGES.roll(turn, 0)).roll(-turn, 0) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for answers in pool.map(ask, range(2)):
            for answer in answers:
                torch.testing.assert_close(answer, expected)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    predictor = opened(mean_onnx(tmp_path / "x.onnx"))
    number = predictor._process._process.pid
    assert is_there(number)
    del predictor
    assert not is_there(number)


@pytest.mark.parametrize(
    ("write", "operator"),
    [(endless_onnx, "Loop"), (lambda path: mean_openvino(path.with_suffix(".xml"), loops=True), "Loop")],
    ids=["onnx", "openvino"],
)
def test_a_loop_is_refused_before_it_runs(write: Callable[[Path], Path], operator: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=rf"x\.(onnx|xml): holds the operator {operator} with a graph of its own, "):
        opened(write(tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    "write", [long_onnx, lambda path: long_openvino(path.with_suffix(".xml"))], ids=["onnx", "openvino"]
)
def test_a_graph_without_end_ends_at_the_limit(write: Callable[[Path], Path], tmp_path: Path) -> None:
    predictor = opened(write(tmp_path / "x.onnx"))
    number = predictor._process._process.pid
    predictor._process._limits = Limits(seconds=1)  # once it is loaded, which takes a while on a busy machine
    with pytest.raises(
        ProgramError, match=r"takes longer than 1 s for 2 images; if you trust the file, raise exported_seco"
    ):
        predictor.logits(IMAGES)
    assert not is_there(number)
    with pytest.raises(ProgramError, match=r"x\.(onnx|xml): "):  # and is not asked again
        predictor.logits(IMAGES)


def test_a_small_file_has_a_small_share_of_the_time() -> None:
    most, least = Limits(), Limits(seconds=2)
    assert most.of_work(0) == 5 and most.of_work(20) == 25 and most.of_work(1000) == most.seconds == 300
    assert least.of_work(0) == least.of_work(20) == 2
    assert Limits(seconds=3000).of_work(10) == 150  # so that raising it helps
    assert Limits(seconds=0).of_work(10) == 0  # no limit


def test_the_sentence_of_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = opened(long_onnx(tmp_path / "x.onnx"))
    monkeypatch.setattr("t2t_vit.inference.foreign_process._LEAST_SECONDS", 0.5)
    said = r"takes longer than 0\.5\d* s for 2 images, the share of exported_seconds that its size gives \(300\); if"
    with pytest.raises(ProgramError, match=said):
        predictor.logits(IMAGES)


def test_what_others_compute_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was not given the processor is not late, until all of exported_seconds have passed."""
    predictor = opened(long_onnx(tmp_path / "x.onnx"), exported_seconds=2)
    monkeypatch.setattr("t2t_vit.inference.foreign_process._LEAST_SECONDS", 0.5)
    monkeypatch.setattr("t2t_vit.inference.foreign_process.processor_seconds", lambda _: 0.0)
    with pytest.raises(ProgramError, match=r"takes longer than 2 s for 2 images; if you trust the file"):
        predictor.logits(IMAGES)


def test_loading_counts(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"x.onnx: takes longer than 0.05 s to load; .* raise exported_seconds"):
        opened(mean_onnx(tmp_path / "x.onnx"), exported_seconds=0.05)
    assert opened(tmp_path / "x.onnx", exported_seconds=0).logits(IMAGES).shape == (2, 3)


def test_a_signal_is_heard_during_a_graph_without_end(tmp_path: Path) -> None:
    predictor = opened(long_onnx(tmp_path / "x.onnx"))
    number = predictor._process._process.pid
    interrupt = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        predictor.logits(IMAGES)
    assert not is_there(number)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone keeps the limit")
@pytest.mark.parametrize("at_once", [True, False])
def test_memory_has_a_limit(at_once: bool, tmp_path: Path) -> None:
    path = numbers_onnx(tmp_path / "x.onnx", 500_000_000 if at_once else 10_000_000, at_once=at_once)  # 2 GB, 5.8 GB
    said = r"x.onnx: needs more memory (to load|for 2 images) than the 1 GB of exported_memory; if you trust"
    with pytest.raises(ProgramError, match=said):
        opened(path, exported_memory=1).logits(IMAGES)


def test_what_was_refused_runs_where_the_limit_is_raised(tmp_path: Path) -> None:
    path = numbers_onnx(tmp_path / "x.onnx", 100_000_000, at_once=True)  # 0.4 GB
    with pytest.raises(ProgramError, match=r"0.3 GB of exported_memory"):
        opened(path, exported_memory=0.3).logits(IMAGES)
    for enough in (3.0, 0.0):
        expected = MEANS.preprocessing.normalize(IMAGES).mean((2, 3))
        torch.testing.assert_close(opened(path, exported_memory=enough).logits(IMAGES), expected)


INT, TEXT, FP8 = INT64, onnx.TensorProto.STRING, onnx.TensorProto.FLOAT8E4M3FN


@pytest.mark.parametrize(
    ("nodes", "settings", "said"),
    [
        ([means(target="m"), node("Cast", "m", OUTPUT, to=INT)], {"out": INT}, "with torch.int64 of the shape"),
        ([means(target="m"), node("Cast", "m", OUTPUT, to=TEXT)], {"out": TEXT}, "the answer is of the type object"),
        ([means(target="m"), node("Cast", "m", OUTPUT, to=FP8)], {"out": FP8}, "with torch.uint8 of the shape"),
        ([node("Identity", INPUT, OUTPUT)], {}, r"answers 2 images in the shape \(2, 3, 4, 6\), not \(2, 3\)"),
        ([node("ReduceMean", INPUT, OUTPUT, keepdims=0)], {}, "in the shape"),
        ([node("ConstantOfShape", "n", OUTPUT)], {"numbers": 10**8}, r"in the shape \(100000000,\)"),
        ([means(target="other")], {"output": "other"}, "Invalid output name:logits"),
        ([means()], {"more": ["second"]}, r"Required inputs \(\['second'\]\) are missing"),
        ([node("Cast", INPUT, "f", to=1), means("f")], {"given": 11}, "Unexpected input data type"),
        ([node("Gather", f"{INPUT} n", "g", axis=3), means("g")], {"numbers": 99}, "fails in ONNX Runtime .*out of"),
    ],
)
def test_answers_that_are_none(
    nodes: list[onnx.NodeProto], settings: dict[str, object], said: str, tmp_path: Path
) -> None:
    predictor = opened(graph_file(tmp_path / "x.onnx", nodes, **settings))  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=rf"^[^\n]*x\.onnx: [^\n]*{said}[^\n]*$"):
        predictor.logits(IMAGES)


def test_a_runtime_that_crashes_takes_nothing_along(tmp_path: Path) -> None:
    predictor = opened(long_onnx(tmp_path / "x.onnx"))
    crash = threading.Timer(0.5, os.kill, (predictor._process._process.pid, signal.SIGSEGV))
    crash.start()
    with pytest.raises(ProgramError, match=r"x.onnx: ONNX Runtime crashes \(signal 11\) for 2 images"):
        predictor.logits(IMAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone keeps the limit")
def test_the_limits_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    path = numbers_onnx(tmp_path / "x.onnx", 100_000_000, at_once=True, metadata=OF_A_COMMAND)  # 0.4 GB
    words = ["infer", str(tmp_path / "a.png"), "--checkpoint", str(path), "--output", str(tmp_path / "p.json")]
    assert main([*words, "--exported_memory", "0.3"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "needs more memory" in err and "the 0.3 GB of exported_memory" in err
    assert main([*words, "--exported_seconds", "0.05"]) == 2
    assert "takes longer than 0.05 s to load" in capsys.readouterr().err
    assert main([*words, "--exported_memory", "3"]) == 0


def test_answers_that_are_not_finite_count_as_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the images, those that are black."""
    for name, grey in (("a", 0), ("b", 200), ("c", 0)):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (30, 30), (grey, grey, grey)).save(tmp_path / "val" / name / f"{number}.png")
    path = graph_file(
        tmp_path / "x.onnx",
        [means(target="m"), node("Log", "m", OUTPUT)],
        metadata=replace(OF_A_COMMAND, classes=("a", "b", "c")),
    )
    assert main(["eval", "--pretrained", str(path), "--data_url", str(tmp_path), "--num_parallel_workers", "0"]) == 0
    out, err = capsys.readouterr()
    assert "x.onnx: answers 4 images with no finite number; they count as wrong" in err
    assert "of 6 images" in out


PARENT = """
import sys, t2t_vit
predictor = t2t_vit.load(sys.argv[1])
print(predictor._process._process.pid, flush=True)
predictor.predict(sys.argv[2])
"""


@pytest.mark.thorough
def test_it_ends_with_the_process_that_asks_however_that_ends(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    words = [str(long_onnx(tmp_path / "x.onnx")), str(tmp_path / "a.png")]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *words], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(600):
        if not is_there(number):
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    raise AssertionError("it computes on")


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_that_runs_a_graph_without_end_can_be_stopped(tmp_path: Path, name: str, code: int) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    words = ["infer", str(tmp_path / "a.png"), "--checkpoint", str(long_onnx(tmp_path / "loop.onnx", OF_A_COMMAND))]
    line = [sys.executable, "-c", "import sys; from t2t_vit.cli.main import main; sys.exit(main())", *words]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, cwd=tmp_path, text=True)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and not children.read_text(encoding="utf-8"):
            time.sleep(0.1)
        time.sleep(3)  # by then it computes; before, the same would be asked of code that is easier to stop
        process.send_signal(signal.Signals[name])
        _, said = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in said) == (code, False), said
    finally:
        process.kill()
        process.wait()


def test_a_process_that_was_ended_is_not_called_a_crash(tmp_path: Path) -> None:
    predictor = opened(mean_onnx(tmp_path / "x.onnx"))
    predictor._process.close()
    with pytest.raises(
        ProgramError, match=r"was stopped in ONNX Runtime by an earlier failure .*; load the file again$"
    ):
        predictor.logits(IMAGES)


def test_a_file_given_as_bytes(tmp_path: Path) -> None:
    content = mean_onnx(tmp_path / "x.onnx").read_bytes()
    predictor = opened(content)  # type: ignore[arg-type]
    assert str(predictor.path) == "the given bytes"
    assert len(predictor.logits(IMAGES)) == len(IMAGES)
    with pytest.raises(ProgramError, match=r"^the given bytes: "):
        t2t_vit.load(content[:-40])
