"""The report: whole, true to its numbers, in need of nothing, and harmless whatever things are called."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from t2t_vit.cli.main import main
from t2t_vit.errors import UserError
from t2t_vit.evaluation.findings import data_uri, details
from t2t_vit.evaluation.outcomes import Outcomes
from t2t_vit.report.page import write_report

VOID = {"meta", "br", "img", "line", "rect", "circle", "polyline"}
HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>\udcff\n\x07'


class Page(HTMLParser):
    """Tags must close in order; keeps the tables, and everything that points somewhere."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


class Images:
    """Grey squares of `classes` classes."""

    def __init__(self, classes: int, count: int, name: str = "class") -> None:
        self.classes = tuple(f"{name} {number}" for number in range(classes))
        self.count, self.called = count, name

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        return Image.new("L", (28, 28), index % 256)

    def name(self, index: int) -> str:
        return f"folder/{self.called}/{index}.png"


def outcomes(classes: int, count: int) -> Outcomes:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % classes
    wrong = torch.rand(count, generator=generator) < 0.3
    predicted = torch.where(wrong, (target + 1 + torch.randint(3, (count,), generator=generator)) % classes, target)
    sure = torch.rand(count, generator=generator, dtype=torch.float64)
    return Outcomes(target, predicted, sure, -sure.log(), (target != predicted).long())


def record(classes: tuple[str, ...], name: str = "a run") -> dict[str, Any]:
    return {
        "name": name, "started": "2026-01-02T03:04:05+00:00", "arch": "t2t_vit_7", "image_size": [28, 28],
        "parameters": 4_000_000, "trainable": 4_000_000, "dataset": name, "training_images": 100,
        "validation_images": 60, "classes": list(classes), "epochs": 2, "last_step": 8, "updates_per_epoch": 4,
        "hardware": {
            "device": name, "device_type": "cuda", "processes": 2, "processor": name, "cores": 4, "threads": 1,
            "precision": "bf16",
        },
        "software": {"torch": name},
        "configuration": [{"section": name, "keys": [{"key": "data_url", "value": name, "default": ""}]}],
    }  # fmt: skip


HISTORY = """\
kind,epoch,step,lr,train_loss,grad_norm,images_per_second,data_wait,mfu,memory,seconds,val_loss,val_top1,val_top5,ema_loss,ema_top1,ema_top5
step,0.5,2,0.001,2.5,1.5,1000,0.25,0.125,2000000000,,,,,,,
epoch,1,4,0.001,2.25,1.5,1000,0.25,0.125,2000000000,60,2,0.5,0.9,2.5,0.25,0.8
epoch,2,8,0.001,1.25,1.5,1000,0.25,0.125,2000000000,60,1.5,0.625,0.95,1.75,0.75,0.9
"""


def make_run(folder: Path, classes: int = 10, count: int = 200, name: str = "class") -> dict[str, Any]:
    """The files of a run that came to its end, and its evaluation."""
    images = Images(classes, count, name)
    scores = {
        "raw": {"loss": 1.5, "top1": 0.625, "top5": 0.95, "count": count},
        "ema": {"loss": 1.75, "top1": 0.75, "top5": 0.9, "count": count},
    }
    found = {"step": 8, "epoch": 2, "weights": "ema", "scores": scores, **details(outcomes(classes, count), images)}
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(found))
    (folder / "run.json").write_text(json.dumps(record(images.classes, name)))
    (folder / "history.csv").write_text(HISTORY)
    return json.loads((folder / "evaluation.json").read_text())


def written(folder: Path) -> tuple[str, Page]:
    write_report(folder, folder / "report.html")
    content = (folder / "report.html").read_text(encoding="utf-8")
    return content, Page(content)


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    found = make_run(tmp_path)
    _, page = written(tmp_path)
    results, classes, matrix, mistaken, bins, *_ = page.tables
    assert results[1] == ["raw weights", "1.5000", "62.50 %", "95.00 %", "62.50 % (epoch 2)"]
    assert results[2] == ["EMA weights", "1.7500", "75.00 %", "90.00 %", "75.00 % (epoch 2)"]
    scores = found["class_scores"]
    hardest_first = sorted(range(10), key=lambda number: scores[number]["recall"])
    assert [row[0] for row in classes[1:]] == [f"class {number}" for number in hardest_first]
    for row, number in zip(classes[1:], hardest_first, strict=True):
        score = scores[number]
        assert row[1] == str(score["count"])
        assert row[2].strip() == f"{100 * score['right'] / score['count']:.1f} %"
        assert row[3:5] == [f"{100 * score['right'] / score['predicted']:.1f} %", f"{score['f1']:.3f}"]
    counts = [[int(cell or 0) for cell in row[1:]] for row in matrix[1:]]
    assert counts == found["confusion_matrix"]
    assert sum(map(sum, counts)) == found["count"] == 200
    assert [int(row[2]) for row in mistaken[1:]] == [count for _, _, count in found["confusions"][:10]]
    assert [int(row[1].replace(",", "")) for row in bins[1:]] == [
        each["count"] for each in found["calibration"]["bins"]
    ]
    for share in (found["top1"], found["top5"], found["calibration"]["ece"]):
        assert f"{100 * share:.2f} %" in page.words
    for mistake in found["mistakes"]:
        assert f"{100 * mistake['confidence']:.1f} %" in page.words
        assert mistake["picture"] in page.links
    assert "2 min 0 s" in page.words and "2.00 GB" in page.words and "12 %" in page.words
    assert page.words.count("EMA weights") >= 6  # every section says whose numbers it shows


def test_it_needs_nothing_from_anywhere(tmp_path: Path) -> None:
    make_run(tmp_path)
    content, page = written(tmp_path)
    assert not {"script", "link", "iframe", "object", "base", "form"} & page.tags
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/[^\"]*", "", content))
    assert "default-src 'none'" in content


def test_names_stay_text(tmp_path: Path) -> None:
    make_run(tmp_path, name=HOSTILE)
    content, page = written(tmp_path)
    assert "script" not in page.tags
    assert page.words.count('<script>alert("1")</script>') > 10
    assert all(link.startswith("data:image/") for link in page.links)
    assert "\x07" not in content


def test_a_picture_that_is_none_is_left_out(tmp_path: Path) -> None:
    found = make_run(tmp_path)
    found["mistakes"][0]["picture"] = "https://somewhere/else.png"
    found["mistakes"][1]["picture"] = 'data:image/png;base64,AA==" onload="x'
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    _, page = written(tmp_path)
    assert len(page.links) == len(found["mistakes"]) - 2


def test_a_thousand_classes_are_readable(tmp_path: Path) -> None:
    found = make_run(tmp_path, classes=1000, count=5000)
    content, page = written(tmp_path)
    assert found["confusion_matrix"] is None and len(found["confusions"]) == 50
    hardest, everything, mistaken = page.tables[1:4]
    assert (len(hardest), len(everything), len(mistaken)) == (21, 1001, 31)
    assert 'class="matrix"' not in content
    assert len(content) < 700_000


def test_without_a_mistake(tmp_path: Path) -> None:
    whole = torch.arange(12) % 4
    right = Outcomes(whole, whole, torch.ones(12, dtype=torch.float64), torch.zeros(12), torch.zeros(12).long())
    make_run(tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text()) | details(right, Images(4, 12))
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    _, page = written(tmp_path)
    assert page.words.count("No mistake was made.") == 1  # the matrix of few classes is shown all the same
    assert page.links == []


def test_a_run_that_was_killed(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "history.csv").write_text(HISTORY.rsplit("\n", 2)[0] + "\nepoch,2,")
    _, page = written(tmp_path)
    assert "did not come to its end: the log stops at step 4 of 8" in page.words
    assert "Best Top-1" in page.words and "Calibration" not in page.words
    (tmp_path / "run.json").unlink()
    assert "Loss" in written(tmp_path)[1].words


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "new/page.html")]) == 0
    assert (tmp_path / "new/page.html").read_bytes() == (tmp_path / "run/report.html").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["report", "--help"])
    assert "RUN_FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["nowhere"], "nowhere: is not a folder"),
        (["."], "holds no history.csv"),
        (["a", "b"], "unexpected word 'b'"),
        (["--output", "x"], "RUN_FOLDER"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *line]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weights": 3}', '{"weights": "raw", "classes": [1]}', "[" * 9999]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    make_run(tmp_path)
    (tmp_path / "evaluation.json").write_text(content)
    if content == "{}":
        assert "did not come to its end" in written(tmp_path)[1].words
        return
    with pytest.raises(UserError, match=r"evaluation\.json"):
        written(tmp_path)


def test_pictures_are_small_and_keep_tiny_ones_exact() -> None:
    assert data_uri(Image.new("L", (28, 28))).startswith("data:image/png;base64,")
    large = data_uri(Image.effect_noise((3000, 2000), 50).convert("RGBA"))
    assert large.startswith("data:image/jpeg;base64,") and len(large) < 40_000
