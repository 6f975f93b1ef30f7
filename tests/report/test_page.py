"""The report: whole, true to its numbers, in need of nothing, and harmless whatever things are called."""

import colorsys
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
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
from t2t_vit.report.page import environment, write_report
from t2t_vit.report.run_files import RunFiles, read_run
from t2t_vit.report.sections import curves, reliability

VOID = {"meta", "br", "img", "line", "rect", "circle", "polyline"}
ACTIVE = {"script", "link", "iframe", "object", "base", "form"}  # what runs, loads or sends something
HOSTILE = {
    "script": '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>',
    "quotes": "\"' onmouseover='alert(1)' \" x=\"",
    "template": "{{ 7 * 7 }}{% include '/etc/passwd' %}{# gone #}",
    "comment": "--><!-- ]]> </style></title></table></svg>",
    "no UTF-8": "caf\udce9 \udcff\n\x07\x00",
    "right to left": "\u202eצבע\u200f \u2066x",
}


class Page(HTMLParser):
    """Tags must close in order; keeps the tables, and everything that points somewhere."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.starts = 0
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.starts += 1
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
    target[target == 1] = 0  # classes of unequal size, one of them without images
    wrong = torch.rand(count, generator=generator) < 0.3
    predicted = torch.where(wrong, (target + 1 + torch.randint(3, (count,), generator=generator)) % classes, target)
    sure = torch.rand(count, generator=generator, dtype=torch.float64)
    return Outcomes(target, predicted, sure, -sure.log(), (target != predicted).long())


def record(classes: tuple[str, ...], name: str = "a run") -> dict[str, Any]:
    return {
        "name": name, "started": "2026-01-02T03:04:05+00:00", "arch": "t2t_vit_7", "image_size": [28, 28],
        "parameters": 4_210_000, "trainable": 3_000_000, "dataset": name, "training_images": 3100,
        "validation_images": 60, "classes": list(classes), "epochs": 3, "last_step": 12, "updates_per_epoch": 4,
        "hardware": {
            "device": name, "device_type": "cuda", "processes": 2, "processor": name, "cores": 5, "threads": 1,
            "precision": "bf16",
        },
        "software": {"torch": name},
        "configuration": [
            {
                "section": name,
                "keys": [
                    {"key": "data_url", "value": name, "default": ""},
                    {"key": "mean", "value": [0.5, 0.25], "default": [0.5, 0.25]},
                ],
            },
            {"section": "Model", "keys": [{"key": "pretrained", "value": "", "default": ""}]},
        ],
    }  # fmt: skip


HISTORY = """\
kind,epoch,step,lr,train_loss,grad_norm,images_per_second,data_wait,mfu,memory,seconds,val_loss,val_top1,val_top5,ema_loss,ema_top1,ema_top5
step,0.5,2,0.001,2.5,1.5,1000,0.0625,0.125,2000000000,,,,,,,
step,1,4,0.002,2.375,1.25,1400,0.125,0.25,2500000000,,,,,,,
step,2,8,0.003,2.125,1.75,1100,0.5,0.5,2250000000,,,,,,,
step,3,12,0.004,2,1.625,500,0.375,0.375,2125000000,,,,,,,
epoch,1,4,0.001,2.25,1.5,900,0.25,0.125,2000000000,60,2,0.5,0.9,2.5,0.8125,0.8
epoch,2,8,0.001,1.25,1.5,800,0.25,0.125,2000000000,70,1.5,0.6875,0.95,1.75,0.25,0.9
epoch,3,12,0.001,1.125,1.5,700,0.25,0.125,2000000000,200,1.5,0.625,0.96,1.625,0.75,0.85
"""


def make_run(folder: Path, classes: int = 10, count: int = 200, name: str = "class") -> dict[str, Any]:
    """The files of a run that came to its end, and its evaluation."""
    images = Images(classes, count, name)
    scores = {
        "raw": {"loss": 1.5, "top1": 0.625, "top5": 0.96, "count": count},
        "ema": {"loss": 1.625, "top1": 0.75, "top5": 0.85, "count": count},
    }
    found = {"step": 12, "epoch": 3, "weights": "ema", "scores": scores, **details(outcomes(classes, count), images)}
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(found))
    (folder / "run.json").write_text(json.dumps(record(images.classes, name)))
    (folder / "history.csv").write_text(HISTORY)
    return json.loads((folder / "evaluation.json").read_text())


def written(folder: Path) -> tuple[str, Page]:
    write_report(folder, folder / "report.html")
    content = (folder / "report.html").read_text(encoding="utf-8")
    return content, Page(content)


def tree(folder: Path) -> ET.Element:
    """The page as a tree."""
    content = written(folder)[0].replace("&nbsp;", " ").removeprefix("<!DOCTYPE html>")
    return ET.fromstring(re.sub(r"<(meta|br|img)\b([^>]*)>", r"<\1\2/>", content))


def words(element: ET.Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


def section(page: ET.Element, title: str) -> ET.Element:
    (found,) = [each for each in page.iter("section") if words(each.find("h2")) == title]
    return found


def rows(table: ET.Element | None) -> list[list[str]]:
    assert table is not None
    return [[words(cell) for cell in row] for row in table.iter("tr")]


BY_HAND: dict[str, Any] = {
    "step": 12, "epoch": 3, "weights": "ema", "count": 24, "loss": 1.125, "top1": 0.625, "top5": 0.875, "unanswered": 0,
    "scores": {
        "raw": {"loss": 1.5, "top1": 0.5, "top5": 0.96, "count": 24},
        "ema": {"loss": 1.25, "top1": 0.75, "top5": 0.85, "count": 24},
    },
    "classes": ["bag", "boot", "coat", "hat", "shoe", "shirt"],
    "class_scores": [
        {"count": 8, "predicted": 9, "right": 6, "precision": 0.66, "recall": 0.75, "f1": 0.706, "taken_for": [5, 2]},
        {"count": 4, "predicted": 5, "right": 2, "precision": 0.4, "recall": 0.5, "f1": 0.444, "taken_for": [2, 2]},
        {"count": 4, "predicted": 6, "right": 4, "precision": 0.61, "recall": 1.0, "f1": 0.8, "taken_for": None},
        {"count": 0, "predicted": 0, "right": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "taken_for": None},
        {"count": 2, "predicted": 0, "right": 0, "precision": 0.01, "recall": 0.0, "f1": 0.02, "taken_for": [0, 1]},
        {"count": 6, "predicted": 4, "right": 3, "precision": 0.76, "recall": 0.5, "f1": 0.6, "taken_for": [0, 3]},
    ],
    "confusion_matrix": [
        [6, 0, 0, 0, 0, 2], [0, 2, 2, 0, 0, 0], [0, 0, 4, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0],
        [3, 0, 0, 0, 0, 3],
    ],
    "confusions": [[5, 0, 3], [0, 5, 2], [1, 2, 2], [4, 0, 1], [4, 1, 1]],
    "calibration": {
        "ece": 0.0825, "mce": 0.375,
        "bins": [
            {"low": 0.0, "high": 0.5, "count": 6, "confidence": 0.25, "accuracy": 0.5},
            {"low": 0.5, "high": 0.9, "count": 0, "confidence": 0.0, "accuracy": 0.0},
            {"low": 0.9, "high": 1.0, "count": 18, "confidence": 0.95, "accuracy": 0.6667},
        ],
    },
    "mistakes": [
        {"name": "photos/val/shirt/7.png", "true": 5, "predicted": 0, "confidence": 0.993,
         "picture": "data:image/png;base64,AA=="},
        {"name": "photos/val/boot/3.png", "true": 1, "predicted": 2, "confidence": 0.871,
         "picture": "data:image/png;base64,BB=="},
    ],
}  # fmt: skip


def by_hand(folder: Path, **changed: Any) -> ET.Element:
    """The page of a run whose every number is another one."""
    make_run(folder)
    (folder / "evaluation.json").write_text(json.dumps(BY_HAND | changed))
    return tree(folder)


def test_the_head_says_what_was_trained_and_how_far_it_came(tmp_path: Path) -> None:
    page = by_hand(tmp_path)
    assert words(page.find(".//h1")) == "class"
    assert words(page.find(".//p[@class='headline']")) == (
        "t2t_vit_7, 28 x 28 pixels, 4.21 M parameters · class: 3,100 training images, 60 validation images, "
        "10 classes · started 2026-01-02 03:04"
    )
    assert [[words(part) for part in tile] for tile in page.findall(".//div[@class='tile']")] == [
        ["Top-1", "62.50 %", "averaged weights"],
        ["Top-5", "87.50 %", "averaged weights"],
        ["Calibration error", "8.25 %", "averaged weights"],
        ["Images per second", "1,050", "MFU 31 %"],
        ["Time", "5 min 30 s", "evaluations included"],
    ]


def test_results_of_both_sets_of_weights(tmp_path: Path) -> None:
    found = section(by_hand(tmp_path), "Results")
    assert words(found.find("p")).startswith("Each of the 24 validation images is counted once")
    assert rows(found.find("table")) == [
        ["", "loss at the end", "Top-1 at the end", "Top-5 at the end", "best Top-1"],
        ["raw weights", "1.5000", "50.00 %", "96.00 %", "68.75 % (epoch 2)"],
        ["averaged weights", "1.2500", "75.00 %", "85.00 %", "81.25 % (epoch 1)"],
    ]


def test_the_best_is_the_largest_and_of_equal_ones_the_earliest() -> None:
    values = ["0.5", "0.75", "0.25", "0.75"]
    run = RunFiles(Path(), [{"kind": "epoch", "epoch": str(i), "val_top1": v} for i, v in enumerate(values)], {}, {})
    assert run.best("val_top1") == (1.0, 0.75)
    assert run.best("ema_top1") is None


@pytest.mark.parametrize(("weights", "text"), [("ema", "averaged weights"), ("raw", "raw weights")])
def test_every_section_of_an_evaluation_names_its_weights(tmp_path: Path, weights: str, text: str) -> None:
    page = by_hand(tmp_path, weights=weights)
    for title in ("Accuracy by class", "Confusion", "Most confident mistakes", "Calibration"):
        badge = section(page, title).find("p/span")
        assert (badge is not None and badge.get("class"), words(badge)) == (f"badge {weights}", text)


def test_classes_stand_hardest_first(tmp_path: Path) -> None:
    found = section(by_hand(tmp_path), "Accuracy by class")
    assert words(found.find("p")) == "averaged weights Hardest first. 1 class has no validation image."
    assert rows(found.find("table")) == [
        ["class", "images", "accuracy (recall)", "precision", "F1", "most often confused with"],
        ["shoe", "2", "0.0 %", "1.0 %", "0.020", "bag (1)"],
        ["shirt", "6", "50.0 %", "76.0 %", "0.600", "bag (3)"],  # of equals the one with more images
        ["boot", "4", "50.0 %", "40.0 %", "0.444", "coat (2)"],
        ["bag", "8", "75.0 %", "66.0 %", "0.706", "shirt (2)"],
        ["coat", "4", "100.0 %", "61.0 %", "0.800", ""],
    ]
    assert [bar.get("style") for bar in found.iter("i")] == [
        f"width:{width}%" for width in ("0.0", "50.0", "50.0", "75.0", "100.0")
    ]
    assert found.find("details") is None


def test_the_matrix_has_true_classes_in_its_rows(tmp_path: Path) -> None:
    found = section(by_hand(tmp_path), "Confusion")
    table = found.find(".//table[@class='matrix']")
    assert rows(table) == [
        ["true class ↓ predicted →", *BY_HAND["classes"]],
        ["bag", "6", "", "", "", "", "2"],
        ["boot", "", "2", "2", "", "", ""],
        ["coat", "", "", "4", "", "", ""],
        ["hat", *[""] * 6],
        ["shoe", "1", "1", "", "", "", ""],
        ["shirt", "3", "", "", "", "", "3"],
    ]
    assert table is not None
    cells = [
        [(cell.get("class"), cell.get("style")) for cell in row.findall("td")] for row in table.findall("tbody/tr")
    ]
    for index, row in enumerate(cells):
        assert [kind for kind, _ in row] == ["hit" if column == index else "miss" for column in range(6)]
    assert [style for _, style in cells[0]] == [f"--shade:{shade}" for shade in ("0.750", *["0.000"] * 4, "0.750")]
    assert (cells[1][1][1], cells[1][2][1]) == ("--shade:0.500", "--shade:1.000")
    assert cells[3][3][1] == "--shade:0.000"
    assert rows(found.find(".//table[@class='confusions']")) == [
        ["true class", "predicted class", "images", "share of the class"],
        ["shirt", "bag", "3", "50.0 %"],
        ["bag", "shirt", "2", "25.0 %"],
        ["boot", "coat", "2", "50.0 %"],
        ["shoe", "bag", "1", "50.0 %"],
        ["shoe", "boot", "1", "50.0 %"],
    ]


def test_mistakes_keep_their_order_and_say_which_class_is_which(tmp_path: Path) -> None:
    cards = by_hand(tmp_path).findall(".//figure[@class='card']")
    assert [words(card) for card in cards] == ["bag 99.3 %is shirtshirt/7.png", "coat 87.1 %is bootboot/3.png"]
    assert [words(card.find("figcaption/b")) for card in cards] == ["bag", "coat"]  # what is wrong is red
    images = [card.find("img") for card in cards]
    assert [image.get("src") for image in images if image is not None] == [
        each["picture"] for each in BY_HAND["mistakes"]
    ]
    hints = [card.find("figcaption/small") for card in cards]
    assert [hint.get("title") for hint in hints if hint is not None] == [each["name"] for each in BY_HAND["mistakes"]]


def test_calibration_in_words_numbers_and_bars(tmp_path: Path) -> None:
    found = section(by_hand(tmp_path), "Calibration")
    assert words(found.find("div/div/p")) == (
        "ECE 8.25 % (expected calibration error): the mean distance between confidence and accuracy, over 3 bins of "
        "equal width (0 is perfect). Largest distance in a bin: 37.50 %. Mean confidence 77.50 %, accuracy 62.50 %: "
        "the network is overconfident."
    )
    assert rows(found.find(".//table[@class='bins']"))[1:] == [
        ["0.00 – 0.50", "6", "25.00 %", "50.00 %"],
        ["0.50 – 0.90", "0", "", ""],
        ["0.90 – 1.00", "18", "95.00 %", "66.67 %"],
    ]
    svg = found.find(".//svg[@class='reliability']")
    assert svg is not None
    diagram = reliability(BY_HAND).diagram
    assert [
        (bar.get("class"), *map(bar.get, ("x", "y", "width", "height")), words(bar)) for bar in svg.iter("rect")
    ] == [
        (bar.kind, *(f"{value:.1f}" for value in (bar.x, bar.y, bar.width, bar.height)), bar.text)
        for bar in diagram.bars
    ]
    (ideal,) = [line for line in svg.iter("line") if line.get("class") == "ideal"]
    assert [ideal.get(name) for name in ("x1", "y1", "x2", "y2")] == ["44", "250", "408", "10"]
    told = [words(text) for text in svg.iter("text")]
    assert told[-1] == "images (24 in all, 18 in the tallest bar)"
    assert [tick for tick in told if tick[0].isdigit()] == ["0", "0.2", "0.4", "0.6", "0.8", "1"] * 2


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (0.5, "overconfident"),
        (0.7749, "overconfident"),
        (0.775, "calibrated on average"),
        (0.9, "underconfident"),
    ],
)
def test_the_verdict_follows_from_mean_confidence_and_accuracy(tmp_path: Path, accuracy: float, verdict: str) -> None:
    text = words(section(by_hand(tmp_path, top1=accuracy), "Calibration").find("div/div/p"))
    assert text.endswith(f"Mean confidence 77.50 %, accuracy {100 * accuracy:.2f} %: the network is {verdict}.")


def test_speed_and_the_machine(tmp_path: Path) -> None:
    page = by_hand(tmp_path)
    assert rows(section(page, "Speed and hardware").find("table"))[1:] == [
        ["images per second, all processes, median", "1,050"],
        ["share of time waiting for data, median", "25 %"],
        ["MFU, median", "31 %"],
        ["peak memory", "2.50 GB"],
        ["time per epoch with its evaluation, median", "1 min 10 s"],
        ["device", "2 x class"],
        ["precision", "bf16"],
        ["processor", "class, 5 cores for this run"],
        ["versions", "torch class"],
    ]
    (tmp_path / "history.csv").write_text("kind,epoch\nepoch,1\n")
    assert [row[1] for row in rows(section(tree(tmp_path), "Speed and hardware").find("table"))[1:6]] == [
        "–", "–", "unknown: the device is not in the table of peak rates", "–", "–"
    ]  # fmt: skip


def test_what_differs_from_its_default_is_bold(tmp_path: Path) -> None:
    groups = section(by_hand(tmp_path), "Configuration").findall("div/div")
    assert [words(group.find("h3")) for group in groups] == ["class", "Model"]
    assert [row for group in groups for row in rows(group.find("table"))[1:]] == [
        ["data_url", "class"], ["mean", "0.5 0.25"], ["pretrained", "–"]
    ]  # fmt: skip
    assert [words(bold) for group in groups for bold in group.iter("b")] == ["data_url", "class"]


def test_curves_are_drawn_where_they_lie(tmp_path: Path) -> None:
    figures = section(by_hand(tmp_path), "Curves").findall(".//figure")
    charts = curves(read_run(tmp_path))
    assert [words(figure.find("figcaption")) for figure in figures] == [chart.title for chart in charts]
    for figure, chart in zip(figures, charts, strict=True):
        assert [(key.get("class"), words(key)) for key in figure.findall("div/span")] == [
            (f"key {line.style}", f"{line.label} {line.last}".strip()) for line in chart.lines
        ]
        assert [(line.get("class"), line.get("points")) for line in figure.iter("polyline")] == [
            (f"line {line.style}", " ".join(f"{x:.1f},{y:.1f}" for x, y in line.corners)) for line in chart.lines
        ]
        assert [(dot.get("class"), dot.get("cx"), dot.get("cy"), words(dot)) for dot in figure.iter("circle")] == [
            (f"dot {line.style}", f"{dot.x:.1f}", f"{dot.y:.1f}", " ".join(dot.text.split()))
            for line in chart.lines
            for dot in line.dots
        ]
        ticks = [(tick.get("y"), words(tick)) for tick in figure.iter("text")]
        assert ticks[: len(chart.y_ticks)] == [(f"{tick.y:.1f}", tick.text) for tick in chart.y_ticks]
        ticks = [(tick.get("x"), words(tick)) for tick in figure.iter("text")][len(chart.y_ticks) :]
        assert ticks == [*((f"{tick.x:.1f}", tick.text) for tick in chart.x_ticks), ("352", "epoch")]


def colour(page: ET.Element, selector: str, key: str, night: bool = False) -> str:
    """What the style sheet gives the elements of `selector`, by day or by night."""
    sheet = page.findtext(".//style") or ""
    palette = dict(re.findall(r"--(\w+): ([^;]+);", sheet.split("@media", 2)[int(night)]))
    plain = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", sheet)
    (body,) = re.findall(rf"(?:^|[}}\s]){re.escape(selector)} \{{([^}}]*)\}}", plain)
    (value,) = re.findall(rf"(?:^|[;\s]){key}: ([^;]+);", body)
    return re.sub(r"var\(--(\w+)\)", lambda found: palette.get(found[1], found[0]), value)


def hue(value: str) -> str:
    """red, orange, blue or grey, of #rrggbb or of rgba(...)."""
    found = re.findall("[0-9a-f]{2}", value) if value.startswith("#") else re.findall(r"\d+", value)[:3]
    angle, saturation, _ = colorsys.rgb_to_hsv(
        *(int(part, 16 if value.startswith("#") else 10) / 255 for part in found)
    )
    if saturation < 0.2:
        return "grey"
    names = {"red": (-30, 10), "orange": (10, 45), "blue": (190, 230)}
    degrees = (360 * angle + 30) % 360 - 30
    (name,) = [name for name, (low, high) in names.items() if low <= degrees < high]
    return name


@pytest.mark.parametrize("night", [False, True])
def test_colours_mean_what_the_page_says(tmp_path: Path, night: bool) -> None:
    page = by_hand(tmp_path)
    meant = {
        ".over": ("fill", "red"),
        ".under": ("fill", "blue"),
        ".seen": ("fill", "blue"),
        ".many": ("fill", "grey"),
        ".card b": ("color", "red"),
        ".bar i": ("background", "blue"),
        ".matrix .hit": ("background", "blue"),
        ".matrix .miss": ("background", "orange"),
        ".badge": ("background", "blue"),
        ".badge.ema": ("background", "orange"),
    }
    for style, name in (("train", "grey"), ("raw", "blue"), ("ema", "orange")):
        meant |= {
            f".key.{style}::before": ("background", name),
            f".line.{style}": ("stroke", name),
            f".dot.{style}": ("fill", name),
        }
    assert {selector: hue(colour(page, selector, key, night)) for selector, (key, _) in meant.items()} == {
        selector: name for selector, (_, name) in meant.items()
    }


def test_few_classes_have_a_matrix_and_less_than_six_no_top5(tmp_path: Path) -> None:
    for classes, count, matrix, top5 in (
        (5, 50, True, False),
        (6, 60, True, True),
        (24, 96, True, True),
        (25, 200, False, True),
    ):
        make_run(tmp_path, classes=classes, count=count)
        page = tree(tmp_path)
        assert (page.find(".//table[@class='matrix']") is not None) == matrix
        assert ("Top-5" in [words(tile[0]) for tile in page.findall(".//div[@class='tile']")]) == top5
        assert ("Top-5 accuracy" in [words(title) for title in page.iter("figcaption")]) == top5
        assert len(rows(page.find(".//table[@class='confusions']"))) == (11 if matrix else 31)


def test_many_classes_are_folded(tmp_path: Path) -> None:
    for classes, shown in ((41, 40), (42, 20)):  # one of them has no images
        make_run(tmp_path, classes=classes, count=6 * classes)
        found = section(tree(tmp_path), "Accuracy by class")
        assert len(rows(found.find("table"))) == 1 + shown
        everything = found.find("details")
        assert (everything is not None) == (shown < 40)
        if everything is not None:
            assert words(everything.find("summary")) == "all 41 classes"
            assert rows(everything.find("table"))[: 1 + shown] == rows(found.find("table"))
            assert len(rows(everything.find("table"))) == 42


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    found = make_run(tmp_path)
    _, page = written(tmp_path)
    _, classes, matrix, mistaken, bins, *_ = page.tables
    scores = found["class_scores"]
    with_images = [number for number in range(10) if scores[number]["count"]]
    assert len(with_images) == 9
    hardest_first = sorted(with_images, key=lambda number: (scores[number]["recall"], -scores[number]["count"]))
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


def test_it_needs_nothing_from_anywhere(tmp_path: Path) -> None:
    make_run(tmp_path)
    content, page = written(tmp_path)
    assert not ACTIVE & page.tags
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/[^\"]*", "", content))
    assert "default-src 'none'" in content


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_names_stay_text(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, name="class")
    usual = written(tmp_path)[1]
    make_run(tmp_path, name=name)
    content, page = written(tmp_path)
    assert (page.tags, page.starts) == (usual.tags, usual.starts)
    as_text = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    visible = re.sub("[\n\x07\x00\u202e\u200f\u2066]", " ", as_text)
    assert page.words.count(visible) > 10
    assert not re.search("[\x07\x00\u202e\u200f\u2066]", content)
    assert all(link.startswith("data:image/") for link in page.links)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a JSON value; of the items of a list the first speaks for all."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, held in value.items():
            yield from places(held, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def with_other(value: Any, path: tuple[str | int, ...], other: object) -> Any:
    """The JSON value with `other` in that place."""
    changed = json.loads(json.dumps(value))
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = other
    return changed


@pytest.mark.parametrize("file", ["run.json", "evaluation.json"])
@pytest.mark.parametrize(
    "hostile",
    [HOSTILE["script"], [HOSTILE["quotes"]], 10**400, "javascript:alert(1)", "https://example.com/x.png"],
    ids=["script", "list", "number", "javascript", "address"],
)
def test_no_value_of_a_runs_files_is_more_than_text(tmp_path: Path, file: str, hostile: object) -> None:
    """In the place of a number, too, as of image_size; what the page cannot show is refused in a sentence."""
    make_run(tmp_path)
    held = {"run.json": record(("a", "b")), "evaluation.json": BY_HAND}
    starts = 0
    for path in places(held[file]):
        for name, content in held.items():
            (tmp_path / name).write_text(json.dumps(with_other(content, path, hostile) if name == file else content))
        try:
            page = written(tmp_path)[1]
        except UserError as error:
            assert str(error).count("\n") == 0 and "is not in the form that a run writes" in str(error)
            continue
        starts += page.starts
        assert not ACTIVE & page.tags, path
        assert all(link.startswith("data:image/") for link in page.links), path
    assert starts > 0


def test_a_very_long_name_is_cut_and_kept_whole_as_a_hint(tmp_path: Path) -> None:
    long = "x" * 5000
    make_run(tmp_path, name=long)
    page = tree(tmp_path)
    (cell, *_) = page.findall(".//table[@class='classes']/tbody/tr/td/bdi")
    assert len(cell.text or "") == 80
    assert (cell.text or "").startswith("xxxx")
    assert re.fullmatch(rf"{long} \d", cell.get("title", ""))
    assert re.fullmatch(r".*x \d", cell.text or "")


def test_templates_are_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    expected = written(tmp_path)[0]
    for folder in (tmp_path, tmp_path / "templates"):
        folder.mkdir(exist_ok=True)
        for name in ("report.html", "parts.html", "style.css"):
            (folder / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    environment.cache_clear()
    assert written(tmp_path)[0] == expected


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
    assert (len(hardest), len(everything), len(mistaken)) == (21, 1000, 31)
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
    lines = HISTORY.splitlines()
    (tmp_path / "history.csv").write_text("\n".join([*lines[:4], lines[5], "epoch,2,"]))
    _, page = written(tmp_path)
    assert "The run is not finished: the log stops at step 8 of 12" in page.words
    assert "Calibration" not in page.words
    assert [[words(part) for part in tile] for tile in tree(tmp_path).findall(".//div[@class='tile']")] == [
        ["Best Top-1", "50.00 %", "raw weights epoch 1"],
        ["Best Top-1", "81.25 %", "averaged weights epoch 1"],
        ["Images per second", "1,100", "MFU 25 %"],
        ["Time", "1 min 0 s", "evaluations included"],
    ]
    assert rows(section(tree(tmp_path), "Results").find("table"))[1:] == [
        ["raw weights", "–", "–", "–", "50.00 % (epoch 1)"],
        ["averaged weights", "–", "–", "–", "81.25 % (epoch 1)"],
    ]
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
        assert "The run is not finished" in written(tmp_path)[1].words
        return
    with pytest.raises(UserError, match=r"evaluation\.json"):
        written(tmp_path)


def test_a_history_without_end_is_named_and_the_report_goes_without_it(tmp_path: Path) -> None:
    make_run(tmp_path)
    history = tmp_path / "history.csv"
    whole = history.read_bytes()
    with history.open("r+b") as file:
        file.truncate(2**26 + 1)  # takes no room
    with pytest.raises(UserError, match=r"history\.csv: has more than 67,108,864 bytes, too many") as caught:
        written(tmp_path)
    command = str(caught.value).partition("(")[2].partition(")")[0]
    assert command == "grep -v ^step, history.csv"
    kept = [line for line in whole.splitlines(keepends=True) if not line.startswith(b"step,")]
    assert 1 < len(kept) < len(whole.splitlines())
    history.write_bytes(b"".join(kept))  # as the sentence says
    assert "Loss" in written(tmp_path)[1].words
    with history.open("ab") as file:
        file.write(b"step,\n" * 300_001)
    with pytest.raises(UserError, match=r"history\.csv: has more than 300,000 rows, too many .* \(grep -v \^step, "):
        written(tmp_path)
    history.rename(tmp_path.with_name("elsewhere.csv"))
    written(tmp_path)


def test_pictures_are_small_and_keep_tiny_ones_exact() -> None:
    assert data_uri(Image.new("L", (28, 28))).startswith("data:image/png;base64,")
    large = data_uri(Image.effect_noise((3000, 2000), 50).convert("RGBA"))
    assert large.startswith("data:image/jpeg;base64,") and len(large) < 40_000
