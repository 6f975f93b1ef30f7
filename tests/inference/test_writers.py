"""Predictions in every format, paths of every kind."""

import csv
import json
import os
from pathlib import Path

import pyarrow.parquet
import pytest

from t2t_vit.errors import UserError
from t2t_vit.inference.item import ImageResult, Prediction
from t2t_vit.inference.writers import FORMATS, check_output, format_of, open_rejects, open_writer

LATIN = os.fsdecode(b"b/\xff\xe9.png")
PATHS = ["a/ü 写.png", LATIN, 'c/"quo,te".png', "d/new\nline\r.png", "e/ back\\n.png", "f;'.png"]
BEST = (Prediction(7, "se,ven\n", 0.625), Prediction(0, None, 0.1 + 0.2))
RESULTS = [ImageResult(path, BEST) for path in PATHS]


def written(
    path: Path, chosen: str, results: list[ImageResult] = RESULTS, *, top_k: int = 0, unique: bool = True
) -> Path:
    with open_writer(path, chosen, top_k=top_k, unique=unique) as writer:
        for result in results:
            writer.write(ImageResult(result.path, result.predictions[: max(1, top_k)]))
    return path


def test_json_is_one_object_as_ever(tmp_path: Path) -> None:
    text = written(tmp_path / "new" / "p.json", "json").read_text(encoding="utf-8")
    assert text == json.dumps(dict.fromkeys(PATHS, 7), indent=1) + "\n"
    assert text.isascii()


def test_json_with_top_k(tmp_path: Path) -> None:
    found = json.loads(written(tmp_path / "p.json", "json", top_k=2).read_text())
    first, second = found[LATIN]
    assert first == {"class": 7, "name": "se,ven\n", "probability": 0.625}
    assert second == {"class": 0, "name": None, "probability": 0.1 + 0.2}
    assert found == {path: [first, second] for path in PATHS}


def test_json_has_a_path_once(tmp_path: Path) -> None:
    text = written(tmp_path / "p.json", "json", [*RESULTS, *RESULTS], unique=False).read_text()
    assert text == written(tmp_path / "q.json", "json").read_text()


@pytest.mark.parametrize("top_k", [0, 2])
def test_json_lines(tmp_path: Path, top_k: int) -> None:
    rows = [json.loads(line) for line in written(tmp_path / "p.jsonl", "jsonl", top_k=top_k).read_text().splitlines()]
    assert [row["path"] for row in rows] == PATHS
    best, second = ({"class": each.index, "name": each.name, "probability": each.probability} for each in BEST)
    top = {"top": [best, second]} if top_k else {}
    assert rows == [{"path": path, **best, **top} for path in PATHS]


@pytest.mark.parametrize("top_k", [0, 2])
def test_csv_comes_back_as_it_was(tmp_path: Path, top_k: int) -> None:
    with written(tmp_path / "p.csv", "csv", top_k=top_k).open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows if row.get("rank", "1") == "1"] == PATHS
    assert rows[0]["name"] == "se,ven\n" and float(rows[0]["probability"]) == 0.625
    found = [(row["path"], row["class"], row["name"], float(row["probability"])) for row in rows]
    kept = BEST[: max(1, top_k)]
    assert found == [(path, str(each.index), each.name or "", each.probability) for path in PATHS for each in kept]
    if top_k:
        assert [row["rank"] for row in rows[:3]] == ["1", "2", "1"] and float(rows[1]["probability"]) == 0.1 + 0.2


def test_csv_for_spreadsheets_holds_no_formula(tmp_path: Path) -> None:
    starts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    results = [ImageResult(start, (Prediction(3, start, 0.5),)) for start in [*starts, "'=1", "a=1"]]
    for asked in (False, True):
        with open_writer(tmp_path / "p.csv", "csv", for_spreadsheets=asked) as writer:
            for result in results:
                writer.write(result)
        with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        expected = [f"'{start}" if asked else start for start in starts] + ["'=1", "a=1"]
        assert rows == [["path", "class", "name", "probability"], *([text, "3", text, "0.5"] for text in expected)]


@pytest.mark.parametrize("top_k", [0, 2])
def test_parquet_comes_back_as_it_was(tmp_path: Path, top_k: int) -> None:
    many = RESULTS * 3_000
    file = pyarrow.parquet.ParquetFile(written(tmp_path / "p.parquet", "parquet", many, top_k=top_k))
    assert file.metadata.num_row_groups > 1
    rows = file.read().to_pylist()
    best = [row for row in rows if row.get("rank", 1) == 1]
    assert [os.fsdecode(row["path_bytes"]) for row in best] == PATHS * 3_000
    assert best[0]["path"] == PATHS[0] and best[1]["path"] == "b/\\xff\\xe9.png"
    kept = list(enumerate(BEST[: max(1, top_k)], 1))
    expected = [{"class": each.index, "name": each.name, "probability": each.probability} for _, each in kept]
    numbers = [{key: row[key] for key in ("class", "name", "probability")} for row in rows]
    assert numbers == expected * len(many)
    assert [row.get("rank", 1) for row in rows] == [rank for rank, _ in kept] * len(many)


@pytest.mark.parametrize("chosen", FORMATS)
def test_nothing_and_failures(tmp_path: Path, chosen: str) -> None:
    path = written(tmp_path / "p", chosen, [])
    assert path.stat().st_size < 2_000 and (chosen != "json" or path.read_text() == "{}\n")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), open_writer(path, chosen) as writer:
        writer.write(RESULTS[0])
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_format_follows_the_ending() -> None:
    assert [format_of(name, None) for name in ("a.CSV", "b.parquet", "c.jsonl", "d.json", "e", "f.txt")] == [
        "csv", "parquet", "jsonl", "json", "json", "json",
    ]  # fmt: skip
    assert format_of("a.csv", "jsonl") == "jsonl"
    with pytest.raises(UserError, match="is not one of json, jsonl, csv, parquet"):
        format_of("a", "xml")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install \"pyarrow>="):
        format_of("a.parquet", None)


def test_rejects_appear_only_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    path.write_text("old")
    with open_rejects(path) as reject:
        for name in PATHS:
            reject(ImageResult(name, reason="why\nnot"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"path": name, "reason": "why\nnot"} for name in PATHS]
    with open_rejects(path):
        pass
    assert not path.exists()


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_output(tmp_path / "a" / "b.json")
    check_output("b.json")
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(UserError, match="Not a directory"):
        check_output(tmp_path / "file" / "p.json")
    with pytest.raises(UserError, match="output is empty"):
        check_output("")
    with pytest.raises(UserError, match="is not a regular file"):
        check_output("/dev/null")
