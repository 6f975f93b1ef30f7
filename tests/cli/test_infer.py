"""`t2t-vit infer` as a user runs it, on folders that nobody wishes for."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image

import t2t_vit
from hostile import hostile_folder
from t2t_vit.cli import infer
from t2t_vit.cli.main import main
from t2t_vit.inference.item import Item

ROOT = Path(__file__).parents[2]
CLASSES = tuple(f"class {number}" for number in range(5))
Run = Callable[..., tuple[int, str, str]]
Place = tuple[Path, set[str], set[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A working folder with q.ckpt and `all`: 600 images, 12 of them broken; the good and the bad paths."""
    place = tmp_path_factory.mktemp("infer")
    torch.manual_seed(0)
    model = t2t_vit.create_model("t2t_vit_quickstart", num_classes=5, image_size=28)
    config = {"arch": "t2t_vit_quickstart", "image_size": 28, "num_classes": 5, "in_chans": 3}
    held = {"format": "t2t_vit", "version": 1, "arch": "t2t_vit_quickstart", "config": config, "classes": list(CLASSES)}
    torch.save({**held, "epoch": 1, "step": 1, "model": model.state_dict(), "ema": None}, place / "q.ckpt")
    good, bad = hostile_folder(place / "all", 600)
    relative = [{os.path.relpath(path, place) for path in paths} for paths in (good, bad)]
    return place, relative[0], relative[1]


@pytest.fixture
def run(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a line where `place` is; its output goes to `tmp_path`."""
    monkeypatch.chdir(place[0])

    def run(*line: str, output: str = "p.json") -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["infer", *line, "--checkpoint", "q.ckpt", "--output", str(tmp_path / output)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_all_good_ones_are_answered_and_nothing_else_is(run: Run, place: Place, tmp_path: Path) -> None:
    _, good, bad = place
    code, out, err = run("all")
    assert code == 1
    found = json.loads((tmp_path / "p.json").read_text())
    assert set(found) == good
    assert list(found) == sorted(found)
    rejected = [json.loads(line) for line in (tmp_path / "p.json.errors.jsonl").read_text().splitlines()]
    assert {each["path"] for each in rejected} == bad
    assert all(each["reason"] for each in rejected)
    lines = out.splitlines()
    assert len(lines) == len(good)  # a line break in a name breaks no line
    assert f"all/000000.png (class: {found['all/000000.png']}) {CLASSES[found['all/000000.png']]}" in lines
    assert "\x1b" not in out + err
    assert sum(line.startswith("all/") for line in err.splitlines()) == len(bad)
    assert "588 predictions in " in err.splitlines()[-1] and "images/s" in err.splitlines()[-1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.json", "p.json.errors.jsonl"]


def test_killed_in_the_middle_and_continued(run: Run, place: Place, tmp_path: Path) -> None:
    extra = ("--top_k", "3", "--batch_size", "16")
    run("all", *extra, output="straight.jsonl")
    line = [sys.executable, str(ROOT / "infer.py"), "all", *extra, "--checkpoint", "q.ckpt"]
    line += ["--output", str(tmp_path / "killed.jsonl")]
    journal = tmp_path / "killed.jsonl.journal"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, cwd=place[0], env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > 5_000):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = journal.read_bytes()
    journal.write_bytes(kept[: kept.rindex(b"\n") - 30])  # and its last line is torn
    assert any(file.name.endswith(".part") for file in tmp_path.iterdir())

    code, out, err = run("all", *extra, "--resume", output="killed.jsonl")
    assert code == 1
    for name in ("{}.jsonl", "{}.jsonl.errors.jsonl"):
        assert (tmp_path / name.format("killed")).read_bytes() == (tmp_path / name.format("straight")).read_bytes()
    assert len(out.splitlines()) == len(place[1])
    assert " from an earlier run" in err.splitlines()[-1]
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith((".part", ".journal"))]


def test_what_cannot_be_continued(run: Run, tmp_path: Path) -> None:
    journal = tmp_path / "p.json.journal"
    journal.write_text('{"journal version": 1, "checkpoint": "of another", "top_k": 1}\n[]\n')
    code, _, err = run("all/000000.png", "--resume")
    assert code == 2 and "was written by another version of t2t_vit; leave out --resume" in err
    journal.write_text('{"t2t_vit infer": 2, "checkpoint": "of another", "top_k": 1}\n[]\n')
    code, _, err = run("all/000000.png", "--resume")
    assert code == 2 and "had another checkpoint and preprocessing" in err
    assert journal.exists()
    code, _, err = run("all/000000.png")
    assert code == 0 and "are discarded" in err and not journal.exists()
    code, _, err = run("all/000000.png", "--resume", "auto")
    assert code == 0 and "starting from the beginning" in err
    assert run("all/000000.png", "--resume=else.ckpt")[0] == 2


def test_every_format_says_the_same(run: Run, tmp_path: Path) -> None:
    for name in ("p.json", "p.jsonl", "p.csv", "p.parquet"):
        assert run("all", output=name)[0] == 1
    found = json.loads((tmp_path / "p.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert {row["path"]: row["class"] for row in rows} == found
    assert all(row["name"] == CLASSES[row["class"]] and 0 < row["probability"] <= 1 for row in rows)
    with (tmp_path / "p.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [(row["path"], int(row["class"])) for row in csv.DictReader(file)] == list(found.items())
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert {os.fsdecode(row["path_bytes"]): row["class"] for row in table} == found
    assert {row["path"] for row in table if "latin" not in row["path"]} < set(found)


def test_top_k_has_names_and_probabilities(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("all/000000.png", "--top_k", "9")
    assert code == 0
    ((path, best),) = json.loads((tmp_path / "p.json").read_text()).items()
    assert [each["name"] for each in best] == [CLASSES[each["class"]] for each in best]
    assert len(best) == 5
    assert [each["probability"] for each in best] == sorted((each["probability"] for each in best), reverse=True)
    assert sum(each["probability"] for each in best) == pytest.approx(1)
    assert out.startswith(f"{path} (class: {best[0]['class']}) {best[0]['name']} {best[0]['probability']:.4f}, ")


def test_only_bad_images_are_done_in_part(run: Run, place: Place, tmp_path: Path) -> None:
    bad = min(place[2])
    (tmp_path / "p.json.errors.jsonl").write_text("of an earlier run")
    code, out, err = run(bad)
    assert (code, out) == (1, "")
    assert (tmp_path / "p.json").read_text() == "{}\n"
    assert json.loads((tmp_path / "p.json.errors.jsonl").read_text())["path"] == bad
    assert "1 image could not be read" in err
    assert run("all/000000.png")[0] == 0
    assert not (tmp_path / "p.json.errors.jsonl").exists()


def test_several_words_lists_and_shards(run: Run, place: Place, tmp_path: Path) -> None:
    names = sorted(place[1])[:6]
    assert run(names[0], "--batch_size", "2", names[1], names[0])[0] == 0
    assert list(json.loads((tmp_path / "p.json").read_text())) == names[:2]
    (tmp_path / "l").write_bytes(b"\0".join(os.fsencode(name) for name in names))
    assert run("--list", str(tmp_path / "l"), "-0")[0] == 0
    whole = json.loads((tmp_path / "p.json").read_text())
    assert list(whole) == names
    parts = {}
    for shard in ("1/2", "2/2"):
        assert run(f"--list={tmp_path / 'l'}", "--null", "--shard", shard)[0] == 0
        parts |= json.loads((tmp_path / "p.json").read_text())
    assert parts == whole
    code, _, err = run("--list", str(tmp_path / "l"))
    assert code == 2 and "add --null" in err


def test_paths_from_standard_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l").write_text("all/000000.png\nall/gone.png\n\n")
    with (tmp_path / "l").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        code, _, err = run("-")
    assert code == 1
    assert list(json.loads((tmp_path / "p.json").read_text())) == ["all/000000.png"]
    assert "all/gone.png: it cannot be read (No such file or directory)" in err


def test_archives_as_folders(run: Run, place: Place, tmp_path: Path) -> None:
    image = (place[0] / "all/000000.png").read_bytes()
    members = {"b.png": image, "../../up.png": image, "a/bad.png": b"no", "notes.txt": b"", ".hidden.png": image}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    zipped, tarred = str(tmp_path / "x.zip"), str(tmp_path / "x.tar.gz")
    assert run(zipped)[0] == 1
    found = json.loads((tmp_path / "p.json").read_text())
    assert list(found) == [f"{zipped}/../../up.png", f"{zipped}/b.png"]
    assert run(tarred)[0] == 1
    again = json.loads((tmp_path / "p.json").read_text())
    assert again == {f"{tarred}/b.png": found[f"{zipped}/b.png"], f"{tarred}/../../up.png": found[f"{zipped}/b.png"]}


def test_recursive(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "d/e/x.png")
    (tmp_path / "d/e/round").symlink_to(tmp_path / "d")
    code, _, err = run(str(tmp_path / "d"))
    assert code == 2 and "--recursive" in err
    assert run(str(tmp_path / "d"), "--recursive")[0] == 0
    assert list(json.loads((tmp_path / "p.json").read_text())) == [f"{tmp_path}/d/e/x.png"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["all", "--format", "xml"], "is not one of json, jsonl, csv, parquet"),
        (["all", "--top_k", "0"], "--top_k takes a whole number of at least 1; not '0'"),
        (["all", "--shard", "3/2"], "must lie between"),
        (["all", "--shard", "half"], "--shard takes I/N"),
        (["all", "--null"], "give the list with --list"),
        (["all", "--spreadsheet"], "--spreadsheet is for CSV, but the output is json; add --format csv"),
        (["--list", "gone.txt"], "cannot be read (No such file"),
        (["--list", "all"], "cannot be read"),
        (["gone.png", "all"], "no such file"),
        (["all", "--errors", "all"], "is a folder"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, line: list[str], sentence: str) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert sentence in err and err.count("\n") == 1


def test_a_table_for_spreadsheets(run: Run, tmp_path: Path) -> None:
    """A folder whose name is a formula, by what the sentence on --spreadsheet says to add."""
    (tmp_path / "work").mkdir()
    name = str(tmp_path / "work/@SUM.png")
    Image.new("RGB", (9, 9)).save(name)
    listed = tmp_path / "list"
    listed.write_text("-gone.png\n" + name)
    assert run("--list", str(listed), "--spreadsheet", "--format", "csv", output="p.csv")[0] == 1
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith(f'"{name}",')
    monkey = Path("-1+1.png")
    Image.new("RGB", (9, 9)).save(monkey)
    try:
        listed.write_text(str(monkey))
        assert run("--list", str(listed), "--spreadsheet", output="p.csv")[0] == 0
    finally:
        monkey.unlink()
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith('"\'-1+1.png",')


def test_max_pixels_is_the_largest_image_that_is_read(run: Run, tmp_path: Path) -> None:
    Image.new("L", (400, 300)).save(tmp_path / "large.png")
    code, _, err = run(str(tmp_path / "large.png"), "all/000000.png", "--max_pixels", "119999")
    assert code == 1
    assert "large.png: it has too many pixels, 400 x 300: max_pixels is 119,999\n" in err
    assert run(str(tmp_path / "large.png"), "--max_pixels", "120000")[0] == 0


def test_the_output_never_replaces_a_device(run: Run) -> None:
    code, _, err = run("all/000000.png", output="/dev/null")
    assert code == 2 and "is not a regular file" in err


def test_a_closed_pipe_is_no_failure_of_the_files(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `| head -1` leaves it; the program's door knows what a BrokenPipeError means."""

    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.chdir(place[0])
    monkeypatch.setattr(infer, "print", closed, raising=False)
    job = infer.InferenceJob(str(tmp_path / "p.json"), workers=0)
    with pytest.raises(BrokenPipeError):
        infer.predict(t2t_vit.load("q.ckpt"), [Item("all/000000.png")], job)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
