"""Where lines, ticks and bars lie. A drawing's y grows downwards."""

from pathlib import Path

import pytest

from t2t_vit.report.charts import (
    CEILING,
    CURVES,
    FLOOR,
    RELIABILITY,
    Chart,
    Line,
    Scale,
    chart,
    reliability_diagram,
)
from t2t_vit.report.run_files import read_run, thinned
from t2t_vit.report.sections import curves

HEADER = "kind,epoch,step,lr,train_loss,val_loss,val_top1,ema_loss,ema_top1,mfu\n"
STEPS = "".join(f"step,{index / 4},{index},0.00{index},{9 - index},,,,,\n" for index in range(1, 9))
EPOCHS = "epoch,1,4,0.004,5,4.5,0.25,6,0.1,\nepoch,2,8,0.008,1,1.5,0.75,2,0.5,\n"


def drawn(tmp_path: Path, text: str) -> list[Chart]:
    (tmp_path / "history.csv").write_text(text)
    return curves(read_run(tmp_path))


def only(made: Chart | None) -> Chart:
    assert made is not None
    return made


def test_a_scale_is_linear_or_logarithmic() -> None:
    linear, log = Scale(1, 5, 100, 20), Scale(0.01, 100, 0, 40, log=True)
    assert [linear(value) for value in (1, 2, 5)] == [100, 80, 20]
    assert linear.ticks == [1, 2, 3, 4, 5]
    assert [log(value) for value in (0.01, 1, 100)] == pytest.approx([0, 20, 40])
    assert log.ticks == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_a_line_lies_where_its_values_are() -> None:
    made = only(chart("title", [Line("a", [(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)], "ema")]))
    (line,) = made.lines
    assert line.corners == [(46, 166), (199, 10), (352, 88)]
    assert (made.title, line.label, line.style, line.last) == ("title", "a", "ema", "2")
    assert [(dot.x, dot.y, dot.text) for dot in line.dots] == [
        (46, 166, "a, epoch 0: 1"), (199, 10, "a, epoch 1: 3"), (352, 88, "a, epoch 2: 2")
    ]  # fmt: skip
    assert [(tick.y, tick.text) for tick in made.y_ticks] == [
        (166, "1"),
        (127, "1.5"),
        (88, "2"),
        (49, "2.5"),
        (10, "3"),
    ]
    assert [(tick.x, tick.text) for tick in made.x_ticks] == [
        (46, "0"), (122.5, "0.5"), (199, "1"), (275.5, "1.5"), (352, "2")
    ]  # fmt: skip


def test_lines_share_their_axes_and_keep_their_order() -> None:
    made = only(chart("x", [Line("a", [(1.0, 4.0)], "raw"), Line("no", []), Line("b", [(2.0, 0.0)], "ema")]))
    assert [(line.label, line.style, line.corners) for line in made.lines] == [
        ("a", "raw", [(199, 10)]), ("b", "ema", [(352, 166)])
    ]  # fmt: skip
    assert chart("x", [Line("y", [])]) is None


def test_axes_are_as_asked_for() -> None:
    wide = [(1.0, 0.5), (2.0, 2000.0)]
    assert [tick.text for tick in only(chart("x", [Line("", wide)], log=True)).y_ticks] == [
        "0.1",
        "1",
        "10",
        "100",
        "1,000",
        "10,000",
    ]
    assert [tick.text for tick in only(chart("x", [Line("", wide)])).y_ticks] == ["0", "500", "1,000", "1,500", "2,000"]
    narrow = [(1.0, 2.0), (2.0, 4.0)]
    assert [tick.text for tick in only(chart("x", [Line("", narrow)], log=True)).y_ticks] == [
        "2",
        "2.5",
        "3",
        "3.5",
        "4",
    ]
    assert [tick.text for tick in only(chart("x", [Line("", narrow)], up_to=0.0)).y_ticks] == ["0", "1", "2", "3", "4"]
    beyond = only(chart("x", [Line("", narrow)], up_to=8.0)).y_ticks
    assert [tick.text for tick in beyond] == ["0", "2", "4", "6", "8"]
    assert [tick.text for tick in only(chart("x", [Line("", narrow)], show="{:.0f} m".format)).y_ticks][-1] == "4 m"


def test_dots_stand_on_short_lines_alone() -> None:
    for count, dots in ((40, 40), (41, 0)):
        points = [(float(index), float(index)) for index in range(count)]
        assert len(only(chart("x", [Line("", points)])).lines[0].dots) == dots


def test_what_was_recorded_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    loss, accuracy, rate = drawn(tmp_path, HEADER + STEPS + EPOCHS)
    assert [(line.label, line.style, line.last, len(line.corners)) for line in loss.lines] == [
        ("training", "train", "1", 8), ("raw", "raw", "1.5", 2), ("averaged", "ema", "2", 2)
    ]  # fmt: skip
    assert [(line.label, line.style, line.last) for line in accuracy.lines] == [
        ("raw weights", "raw", "75 %"), ("averaged weights", "ema", "50 %")
    ]  # fmt: skip
    assert (loss.title, accuracy.title, rate.title) == (
        "Loss, training and validation",
        "Top-1 accuracy",
        "Learning rate",
    )
    assert [line.last for line in rate.lines] == ["0.008"]
    *_, mfu = drawn(tmp_path, HEADER + "step,1,4,0.1,5,,,,,0.25\n")
    assert (mfu.title, mfu.lines[0].last) == ("MFU", "25 %")


EVERYTHING = {
    "lr": "0.125", "train_loss": "1.75", "grad_norm": "2.5", "param_norm": "30", "update_norm": "0.5",
    "images_per_second": "700", "data_wait": "0.25", "mfu": "0.375", "memory": "3500000000", "skipped": "2",
    "val_loss": "1.5", "val_top1": "0.5", "val_top5": "0.875", "ema_loss": "1.25", "ema_top1": "0.625",
    "ema_top5": "0.75",
}  # fmt: skip


def test_each_curve_shows_its_own_column(tmp_path: Path) -> None:
    made = drawn(tmp_path, f"kind,epoch,{','.join(EVERYTHING)}\nepoch,1,{','.join(EVERYTHING.values())}\n")
    assert {each.title: [f"{line.style} {line.label} {line.last}" for line in each.lines] for each in made} == {
        "Loss, training and validation": ["train training 1.75", "raw raw 1.5", "ema averaged 1.25"],
        "Top-1 accuracy": ["raw raw weights 50 %", "ema averaged weights 62.5 %"],
        "Top-5 accuracy": ["raw raw weights 87.5 %", "ema averaged weights 75 %"],
        "Learning rate": ["other  0.125"],
        "Gradient norm, before clipping": ["other largest 2.5"],
        "Norm of the weights": ["other  30"],
        "Norm of an update": ["other  0.5"],
        "Images per second, all processes": ["other  700"],
        "Share of time waiting for data": ["other  25 %"],
        "MFU": ["other  38 %"],
        "Peak memory, GB": ["other  3.5"],
        "Updates skipped, gradient not finite": ["other  2"],
    }
    none_skipped = EVERYTHING | {"skipped": "0"}
    made = drawn(tmp_path, f"kind,epoch,{','.join(EVERYTHING)}\nepoch,1,{','.join(none_skipped.values())}\n")
    assert made[-1].title == "Peak memory, GB"


def test_a_run_without_evaluations_and_a_line_cut_short(tmp_path: Path) -> None:
    made = drawn(tmp_path, HEADER + STEPS + "step,2.25,9,0.0")
    assert [each.title for each in made] == ["Loss, training and validation", "Learning rate"]
    drawn(tmp_path, HEADER + "epoch,1,4,0.004,5,,,,,\nepoch,x,,\n")
    assert drawn(tmp_path, HEADER) == []


def test_flat_single_and_extreme_lines_are_drawn() -> None:
    for points in (
        [(0.0, 0.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(1.0, -2.0), (2.0, -2.0)],
        [(1.0, 1e-30), (2.0, 1e30)],
        [(1.0, -1e9), (2.0, 1e-9)],
        [(0.001, 1e-12), (0.002, 2e-12)],
    ):
        for log in (False, True):
            made = only(chart("x", [Line("y", points)], log=log))
            assert len(made.lines[0].corners) == len(points)
            for x, y in made.lines[0].corners:
                assert CURVES.left - 1e-9 <= x <= CURVES.right + 1e-9
                assert CURVES.top - 1e-9 <= y <= CURVES.bottom + 1e-9


def test_a_long_line_keeps_its_spikes_and_ends() -> None:
    points = [(float(index), 1.0) for index in range(100_000)]
    points[777], points[50_001] = (777.0, 99.0), (50_001.0, -99.0)
    few = thinned(points)
    assert len(few) <= 420
    assert {points[0], points[777], points[50_001], points[-1]} <= set(few)
    assert few == sorted(few)


def measured(low: float, high: float, count: int, confidence: float, accuracy: float) -> dict[str, float]:
    return {"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy}


def test_a_reliability_diagram_by_hand() -> None:
    found = [measured(0, 0.25, 1, 0.2, 0.5), measured(0.25, 0.5, 0, 0, 0), measured(0.5, 1, 4, 0.75, 0.25)]
    made = reliability_diagram(found, 5)
    timid, sure = (
        "0.00 to 0.25: 1 images, confidence 20.00 %, accuracy 50.00 %",
        "0.50 to 1.00: 4 images, confidence 75.00 %, accuracy 25.00 %",
    )
    assert (RELIABILITY.left, RELIABILITY.right, RELIABILITY.top, RELIABILITY.bottom) == (44, 408, 10, 250)
    assert [(bar.kind, bar.text) for bar in made.bars] == [
        *((kind, timid) for kind in ("seen", "under", "many")),
        *((kind, sure) for kind in ("seen", "over", "many")),
    ]
    height = FLOOR - CEILING
    for bar, place in zip(
        made.bars,
        [
            (45, 202, 89, 48),  # up to where both agree: 0.2 of 240
            (45, 130, 89, 72),  # and from there to the accuracy, 0.5
            (45, FLOOR - height / 4, 89, height / 4),  # 1 image of the 4 in the tallest bar
            (227, 190, 180, 60),
            (227, 70, 180, 120),
            (227, CEILING, 180, height),
        ],
        strict=True,
    ):
        assert (bar.x, bar.y, bar.width, bar.height) == pytest.approx(place)
    assert (made.total, made.most) == (5, 4)
    assert [tick.y for tick in made.y_ticks] == pytest.approx([250, 202, 154, 106, 58, 10])
    assert [tick.x for tick in made.x_ticks] == pytest.approx([44, 116.8, 189.6, 262.4, 335.2, 408])
    for ticks in (made.x_ticks, made.y_ticks):
        assert [tick.text for tick in ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
