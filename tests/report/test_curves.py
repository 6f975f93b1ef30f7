"""The charts of a run's course."""

import re
from itertools import pairwise
from pathlib import Path

from t2t_vit.report.chart import HEIGHT, WIDTH, Line, panel
from t2t_vit.report.curves import curves
from t2t_vit.report.run_files import read_run, thinned

HEADER = "kind,epoch,step,lr,train_loss,val_loss,val_top1,ema_loss,ema_top1,mfu\n"
STEPS = "".join(f"step,{index / 4},{index},0.00{index},{9 - index},,,,,\n" for index in range(1, 9))
EPOCHS = "epoch,1,4,0.004,5,4.5,0.25,6,0.1,\nepoch,2,8,0.008,1,1.5,0.75,2,0.5,\n"


def drawn(tmp_path: Path, text: str) -> str:
    (tmp_path / "history.csv").write_text(text)
    return curves(read_run(tmp_path))


def titles(page: str) -> list[str]:
    return re.findall("<figcaption>(.*?)</figcaption>", page)


def spots(page: str, style: str) -> list[tuple[float, float]]:
    """The corners of the first line of a style."""
    (first, *_) = re.findall(rf'<polyline class="line {style}" points="(.*?)"', page)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in first.split())]


def test_what_was_recorded_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    page = drawn(tmp_path, HEADER + STEPS + EPOCHS)
    assert titles(page) == ["Loss, training and validation", "Top-1 accuracy", "Learning rate"]
    assert [len(spots(page, style)) for style in ("train", "raw", "ema")] == [8, 2, 2]
    assert "<b>75 %</b>" in page and "<b>50 %</b>" in page
    mfu = drawn(tmp_path, HEADER + "step,1,4,0.1,5,,,,,0.25\n")
    assert "MFU" in titles(mfu) and "<b>25 %</b>" in mfu


def test_points_lie_where_they_belong(tmp_path: Path) -> None:
    line = spots(drawn(tmp_path, HEADER + STEPS + EPOCHS), "train")
    assert line == sorted(line)  # a falling loss goes down the page: y grows with x
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)
    steps = [after[0] - before[0] for before, after in pairwise(line)]
    assert max(steps) - min(steps) < 0.15


def test_a_run_without_evaluations_and_a_line_cut_short(tmp_path: Path) -> None:
    assert titles(drawn(tmp_path, HEADER + STEPS + "step,2.25,9,0.0")) == [
        "Loss, training and validation",
        "Learning rate",
    ]
    drawn(tmp_path, HEADER + "epoch,1,4,0.004,5,,,,,\nepoch,x,,\n")
    assert "Nothing was logged yet" in drawn(tmp_path, HEADER)


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
            picture = panel("x", [Line("y", points)], log=log)
            (corners,) = re.findall('points="(.*?)"', picture)
            assert "nan" not in corners and "inf" not in corners
            assert all(0 <= float(y) <= HEIGHT for y in re.findall(r",(\S+)", corners))
    assert panel("x", [Line("y", [])]) == ""


def test_a_long_line_keeps_its_spikes_and_ends() -> None:
    points = [(float(index), 1.0) for index in range(100_000)]
    points[777], points[50_001] = (777.0, 99.0), (50_001.0, -99.0)
    few = thinned(points)
    assert len(few) <= 420
    assert {points[0], points[777], points[50_001], points[-1]} <= set(few)
    assert few == sorted(few)


def test_equal_histories_give_equal_pages(tmp_path: Path) -> None:
    assert drawn(tmp_path, HEADER + STEPS + EPOCHS) == drawn(tmp_path, HEADER + STEPS + EPOCHS)
