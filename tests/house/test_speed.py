"""The figures of docs/performance.md are those of the results it names: benchmarks/plot.py makes page and picture."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"


@pytest.fixture(scope="module")
def plot(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("benchmarks/plot.py")


def test_page_and_picture_are_what_the_tool_makes_of_the_results(plot: ModuleType) -> None:
    made = list(plot.sections(PAGE.read_text(encoding="utf-8")))
    assert made
    for result, picture, text in made:
        found = json.loads((ROOT / result).read_text(encoding="utf-8"))
        assert text == plot.section(result, picture, found), f"run: python benchmarks/plot.py {result}"
        assert (ROOT / "docs" / picture).read_text(encoding="utf-8") == plot.picture(found)


def test_a_table_has_every_contestant_of_a_result(plot: ModuleType) -> None:
    rate = {"median": 84.2, "low": 80.0, "high": 86.5}
    found = {
        "date": "2026-01-02T03:04:05", "commit": "0123456789abcdef-dirty", "gpu": None, "processor": "a <processor>",
        "cores": 2, "threads": 2, "python": "3.11", "torch": "2.15", "timm": "1.0", "command": "python x",
        "sections": [
            {
                "what": "inference",
                "images_per_second": {"authors' code": rate, "t2t_vit": rate, "other": rate},
                "times_faster": {"t2t_vit / authors' code": {"median": 3.5, "low": 3.37, "high": 3.61}},
            },
            {"what": "memory", "bytes": {"authors' code": 8_000_000, "t2t_vit": 2_000_000}, "ratio": 0.25},
            {"what": "nothing that can be drawn"},
        ],
    }  # fmt: skip
    rows = plot.table(found).splitlines()
    assert rows[2:7] == [
        "| inference | authors' code | 84.2 (80.0 to 86.5) images/s | 3.50 x (3.37 to 3.61) |",
        "|  | **t2t_vit** | 84.2 (80.0 to 86.5) images/s |  |",
        "|  | other | 84.2 (80.0 to 86.5) images/s |  |",
        "| memory | authors' code | 8.00 MB | 0.25 x |",
        "|  | **t2t_vit** | 2.00 MB |  |",
    ]
    assert rows[-1].startswith("2026-01-02, a <processor>, 2 cores, 2 threads, Python 3.11")
    assert "commit 01234567-dirty" in rows[-1]
    found["sections"][0]["mfu"] = {"rates": {}, "t2t_vit": {"of_data_sheet": None, "of_measured_product": 0.25}}
    rows = plot.table(found).splitlines()
    assert rows[0].endswith("| ours against it | MFU: data sheet / product |")
    assert rows[3].endswith("|  | - / 25 % |")
    drawn = plot.picture(found)
    assert drawn.count("<rect") == 1 + 5
    assert "nothing that can be drawn" not in drawn
