"""The JSON of predictions."""

import json
from pathlib import Path

import pytest

from t2t_vit.errors import UserError
from t2t_vit.inference.writers import check_output, write_predictions


def test_one_object_in_sorted_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.json"
    write_predictions(path, {"b/2.png": 7, "b/10.png": 3, "a/ü \udcff.png": 0})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a/ü \udcff.png": 0, "b/10.png": 3, "b/2.png": 7}
    assert list(json.loads(text)) == ["a/ü \udcff.png", "b/10.png", "b/2.png"]
    assert text.endswith("}\n") and '\n "b/2.png": 7' in text


def test_no_predictions_are_an_empty_object(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.json", {})
    assert json.loads((tmp_path / "p.json").read_text()) == {}


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
    for path in (tmp_path, tmp_path / "file" / "p.json"):
        with pytest.raises(UserError):
            write_predictions(path, {})
