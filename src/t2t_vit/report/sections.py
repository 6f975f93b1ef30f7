"""What the report says about a run: the numbers chosen, sorted and judged. `templates/` decides how they look."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from t2t_vit.notes import counted
from t2t_vit.report.charts import Chart, Diagram, Line, chart, reliability_diagram
from t2t_vit.report.formatting import duration, number, percent, share
from t2t_vit.report.run_files import RunFiles

COLUMNS = {"raw": "val", "ema": "ema"}  # what the columns of the history begin with, by the weights
_SHOWN = 40  # rows of the table of classes that are not folded away
_MATRIX = 24  # classes, at most, whose matrix is drawn: more do not fit on a page
_CONFUSIONS, _BESIDE_MATRIX = 30, 10  # rows of the commonest mistakes, alone and beside the matrix
_IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")


def last_logged_step(run: RunFiles) -> int:
    """The last optimizer step that the history holds."""
    return max((int(row["step"]) for row in run.rows if (row.get("step") or "").isdigit()), default=0)


@dataclass(frozen=True)
class Tile:
    """A number to see first: `weights` are those that it was made with, where it depends on them."""

    name: str
    value: str
    weights: str = ""
    note: str = ""


def tiles(run: RunFiles) -> list[Tile]:
    """The few numbers that one looks for first."""
    found, shown = run.evaluation, []
    if found:
        weights = found["weights"]
        shown.append(Tile("Top-1", percent(found["top1"]), weights))
        if len(found["classes"]) > 5:
            shown.append(Tile("Top-5", percent(found["top5"]), weights))
        shown.append(Tile("Calibration error", percent(found["calibration"]["ece"]), weights))
    else:
        for weights, column in COLUMNS.items():
            best = run.best(f"{column}_top1")
            if best:
                shown.append(Tile("Best Top-1", percent(best[1]), weights, f"epoch {number(best[0])}"))
    speed, mfu = _typical(run, "images_per_second"), _typical(run, "mfu")
    if speed is not None:
        shown.append(
            Tile("Images per second", number(speed), note=f"MFU {share(mfu)}" if mfu is not None else "median")
        )
    seconds = sum(value for _, value in run.points("seconds", "epoch"))
    if seconds:
        shown.append(Tile("Time", duration(seconds), note="evaluations included"))
    return shown


@dataclass(frozen=True)
class Scores:
    """One set of weights: loss, top1 and top5 at the end, and (epoch, top1) at its best, as far as they are known."""

    weights: str
    last: dict[str, Any] | None
    best: tuple[float, float] | None


def results(run: RunFiles) -> list[Scores]:
    """The sets of weights that were evaluated."""
    scores = run.evaluation.get("scores", {})
    found = [Scores(weights, scores.get(weights), run.best(f"{column}_top1")) for weights, column in COLUMNS.items()]
    return [each for each in found if each.last or each.best]


def curves(run: RunFiles) -> list[Chart]:
    """Loss, accuracies, learning rate, norms, speed, as far as they were recorded."""
    loss = [
        Line("training", run.steps("train_loss"), "train"),
        Line("raw", run.points("val_loss", "epoch"), "raw"),
        Line("averaged", run.points("ema_loss", "epoch"), "ema"),
    ]
    memory = [(epoch, value / 1e9) for epoch, value in run.steps("memory")]
    skipped = run.steps("skipped")
    few_classes = "classes" in run.evaluation and len(run.evaluation["classes"]) <= 5
    charts = [
        chart("Loss, training and validation", loss),
        _accuracy(run, "Top-1 accuracy", "top1"),
        None if few_classes else _accuracy(run, "Top-5 accuracy", "top5"),
        chart("Learning rate", [Line("", run.steps("lr"))], up_to=0.0),
        chart("Gradient norm, before clipping", [Line("largest", run.steps("grad_norm"))], log=True),
        chart("Norm of the weights", [Line("", run.steps("param_norm"))]),
        chart("Norm of an update", [Line("", run.steps("update_norm"))], log=True),
        chart("Images per second, all processes", [Line("", run.steps("images_per_second"))], up_to=0.0),
        chart("Share of time waiting for data", [Line("", run.steps("data_wait"))], show=share, up_to=0.1),
        chart("MFU", [Line("", run.steps("mfu"))], show=share, up_to=0.0),
        chart("Peak memory, GB", [Line("", memory)], up_to=0.0),
        chart("Updates skipped, gradient not finite", [Line("", skipped if any(v for _, v in skipped) else [])]),
    ]
    return [each for each in charts if each]


def _accuracy(run: RunFiles, title: str, name: str) -> Chart | None:
    raw, ema = (run.points(f"{weights}_{name}", "epoch") for weights in ("val", "ema"))
    return chart(title, [Line("raw weights", raw, "raw"), Line("averaged weights", ema, "ema")], show=_tenths)


def _tenths(value: float) -> str:
    return percent(value, 1).replace(".0 %", " %")


@dataclass(frozen=True)
class ClassRow:
    """A class, its scores, and (class, images) of what it is most often taken for."""

    name: str
    score: dict[str, Any]
    taken_for: tuple[str, int] | None


@dataclass(frozen=True)
class Classes:
    """Classes with images, hardest first; of many, only the hardest are shown at once; `absent` have no image."""

    shown: list[ClassRow]
    all: list[ClassRow]
    absent: int


def classes(evaluation: dict[str, Any]) -> Classes:
    """Every class, lowest recall first; of equals the one with more images."""
    names, scores = evaluation["classes"], evaluation["class_scores"]
    order = sorted(enumerate(scores), key=lambda item: (item[1]["recall"], -item[1]["count"]))
    rows = [
        ClassRow(
            names[index],
            score,
            (names[score["taken_for"][0]], score["taken_for"][1]) if score["taken_for"] else None,
        )
        for index, score in order
        if score["count"]
    ]
    shown = rows if len(rows) <= _SHOWN else rows[: _SHOWN // 2]
    return Classes(shown, rows, len(names) - len(rows))


@dataclass(frozen=True)
class Cell:
    """Images of a class that were taken for another one or itself; `shade` in 0..1 is how dark the cell is."""

    count: int
    kind: str
    shade: float


@dataclass(frozen=True)
class Confusion:
    """What is taken for what.

    matrix     (class, a cell for each class that it was taken for), or None where the classes are too many
    commonest  (class, what it was taken for, images, share of the class), commonest first
    """

    matrix: list[tuple[str, list[Cell]]] | None
    commonest: list[tuple[str, str, int, float]]


def confusion(evaluation: dict[str, Any]) -> Confusion:
    """The whole matrix of few classes, and the commonest mistakes."""
    names, counts = evaluation["classes"], evaluation["confusion_matrix"]
    matrix = None
    if counts is not None and len(names) <= _MATRIX:
        matrix = [(name, _cells(index, row)) for index, (name, row) in enumerate(zip(names, counts, strict=True))]
    images = [score["count"] for score in evaluation["class_scores"]]
    most = evaluation["confusions"][: _CONFUSIONS if matrix is None else _BESIDE_MATRIX]
    rows = [(names[true], names[taken], count, count / max(1, images[true])) for true, taken, count in most]
    return Confusion(matrix, rows)


def _cells(index: int, row: Sequence[int]) -> list[Cell]:
    """Shades are shares of the row; mistakes are three times as dark, or few of them would be seen."""
    shares = [count / max(1, sum(row)) for count in row]
    return [
        Cell(count, "hit", part) if column == index else Cell(count, "miss", min(1.0, 3 * part))
        for column, (count, part) in enumerate(zip(row, shares, strict=True))
    ]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer; `image` is a data URI, empty where the file holds something else."""

    predicted: str
    true: str
    confidence: float
    path: str
    image: str

    @property
    def short_path(self) -> str:
        """The file and its folder."""
        return "/".join(self.path.replace("\\", "/").split("/")[-2:])


def mistakes(evaluation: dict[str, Any]) -> list[Mistake]:
    """The wrong answers that were given with the most confidence, in the order of the file."""
    names = evaluation["classes"]
    return [
        Mistake(
            names[each["predicted"]],
            names[each["true"]],
            each["confidence"],
            str(each["name"]),
            each["picture"] if _IMAGE.fullmatch(str(each["picture"])) else "",
        )
        for each in evaluation["mistakes"]
    ]


@dataclass(frozen=True)
class Reliability:
    """Calibration: errors, mean confidence and accuracy in 0..1, and what their difference means."""

    ece: float
    mce: float
    confidence: float
    accuracy: float
    verdict: str
    bins: list[dict[str, Any]]
    diagram: Diagram


def reliability(evaluation: dict[str, Any]) -> Reliability:
    """Whether the network is right as often as it says that it is."""
    found, total, accuracy = evaluation["calibration"], evaluation["count"], evaluation["top1"]
    bins = found["bins"]
    confidence = sum(each["confidence"] * each["count"] for each in bins) / max(1, total)
    verdict = "overconfident" if confidence > accuracy else "underconfident"
    if percent(confidence) == percent(accuracy):  # the same to every digit that is shown
        verdict = "calibrated on average"
    return Reliability(
        found["ece"], found["mce"], confidence, accuracy, verdict, bins, reliability_diagram(bins, total)
    )


def speed(run: RunFiles) -> list[tuple[str, str]]:
    """Speed, and the machine that it belongs to: names and values."""
    memory = max((value for _, value in run.steps("memory")), default=None)
    seconds = [value for _, value in run.points("seconds", "epoch")]
    mfu = _typical(run, "mfu")
    rows = [
        ("images per second, all processes, median", number(_typical(run, "images_per_second"))),
        ("share of time waiting for data, median", share(_typical(run, "data_wait"))),
        ("MFU, median", "unknown: the device is not in the table of peak rates" if mfu is None else share(mfu)),
        ("peak memory", "–" if memory is None else f"{memory / 1e9:.2f} GB"),
        ("time per epoch with its evaluation, median", duration(median(seconds)) if seconds else "–"),
    ]
    hardware, software = run.record.get("hardware", {}), run.record.get("software", {})
    if hardware:
        rows += [
            ("device", f"{number(hardware['processes'])} x {hardware['device']}"),
            ("precision", hardware["precision"]),
            ("processor", f"{hardware['processor']}, {counted(hardware['cores'], 'core')} for this run"),
        ]
    if software:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in software.items())))
    return rows


def _typical(run: RunFiles, column: str) -> float | None:
    values = [value for _, value in run.steps(column)]
    return median(values) if values else None
