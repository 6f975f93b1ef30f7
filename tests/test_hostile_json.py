"""JSON, YAML and tables that nobody's program wrote: each reader has its own answer to them, and never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2t_vit.comparison.runs import read_runs
from t2t_vit.data import readable
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.files import parse_json
from t2t_vit.formats.safetensors_file import read_own_metadata, read_sharded_safetensors
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.journal import _parsed
from t2t_vit.model.folder_config import read_folder_config
from t2t_vit.report.run_files import read_run
from t2t_vit.settings.file import read_config
from t2t_vit.sweep import record
from t2t_vit.sweep.process import SeedRun
from t2t_vit.training.divergence import _step
from t2t_vit.training.journal import _rows_up_to
from t2t_vit.training.run import _json
from t2t_vit.training.trackers import RunId

HUGE = "1" + "0" * 400  # a whole number that no float can hold
DIGITS = "1" * 5000  # one that Python does not read
TEXTS = {
    "nothing": b"",
    "nested too deeply": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a huge number": HUGE.encode(),
    "too many digits": DIGITS.encode(),
    "infinity": b"1e999",
    "no text": b"\xff\xfe\x00{",
    "NUL": b"\0\0\0\0",
    "a text": b'"a"',
    "a list": b"[1, [2], {}]",
    "null": b"null",
    "half a character": b'"\\ud800"',
    "a key for all": b'{"step": "x", "kind": 5, "files": {}, "run_id": [], "arch": {}, "weight_map": {"a": 1}}',
    "huge numbers in keys": f'{{"step": {HUGE}, "num_classes": {HUGE}, "input_size": [{HUGE}]}}'.encode(),
}


def safetensors(path: Path) -> object:
    content = path.read_bytes()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    return read_own_metadata(path)


def remembered(path: Path) -> object:
    place = path.with_name("looked_at") / "key.npz"
    place.parent.mkdir()
    reasons = np.frombuffer(path.read_bytes(), np.uint8)
    np.savez_compressed(place, sizes=np.zeros((1, 2)), decoded=np.zeros(1), reasons=reasons)
    return readable.remembered("key", 1)


def followed(path: Path) -> object:
    run = SeedRun(path.parent / "run", [])
    logs = path.parent / "run/logs/net"
    logs.mkdir(parents=True)
    (logs / "run.json").touch()
    (logs / "history.jsonl").write_bytes(path.read_bytes() + b'\n{"kind": "epoch", "epoch": 2.0, "val_top1": 0.5}\n')
    return [*run.new_values("top1", loss=False)]


READERS: dict[str, tuple[Callable[[Path], object], tuple[type[Exception], ...]]] = {
    "parse_json": (lambda path: parse_json(path.read_bytes()), (ValueError,)),
    "configuration": (read_config, (UserError,)),
    "config.json": (read_folder_config, (UserError,)),
    "safetensors index": (read_sharded_safetensors, (UserError,)),
    "safetensors": (safetensors, ()),
    "history": (lambda path: _rows_up_to(path, 5, True), ()),
    "skipped updates": (lambda path: _step(path.read_text(errors="replace")), ()),
    "run.json": (_json, ()),
    "journal of infer": (lambda path: _parsed(path.read_bytes()), ()),
    "looked at": (remembered, ()),
    "sweep.json": (record._read, (UserError,)),
    "history that a sweep follows": (followed, ()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_no_reader_is_surprised(reader: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path))
    path = tmp_path / "file"
    path.write_bytes(TEXTS[text])
    read, refused = READERS[reader]
    try:
        read(path)
    except refused as error:
        assert "\n" not in str(error) and len(str(error)) < 500


@pytest.mark.parametrize("text", TEXTS)
def test_the_run_id_of_a_tracker(text: str, tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_bytes(TEXTS[text])
    assert RunId(tmp_path, "wandb", run="run", goes_on=True).known is None


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "history.csv", "history.jsonl"])
def test_a_report_of_them(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / name).write_bytes(TEXTS[text])
    try:
        read_run(tmp_path)
        read_runs([tmp_path])
    except UserError as error:
        assert "\n" not in str(error)


VALUES = [HUGE, "-" + HUGE, "1e999", "NaN", "-1", "0", "[]", "{}", '"x"', "null", "true", '["a", "b"]', "[[1], [2]]"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", [*Preprocessing((4, 4)).to_dict(), *Metadata("a", Preprocessing((4, 4))).to_strings()])
def test_metadata_of_an_exported_file(key: str, value: str) -> None:
    """Either they are refused, or what came out is what a file can be."""
    strings = Metadata("a", Preprocessing((4, 4)), ("x", "y"), 2).to_strings()
    inner: dict[str, Any] = json.loads(strings["preprocessing"])
    if key in inner:
        parts = {name: value if name == key else json.dumps(part) for name, part in inner.items()}
        strings["preprocessing"] = "{" + ", ".join(f'"{name}": {part}' for name, part in parts.items()) + "}"
    else:
        strings[key] = value
    try:
        found = Metadata.from_strings(strings)
    except ValueError:
        return
    size = found.preprocessing.image_size
    assert all(1 <= side <= 8192 for side in size) and found.preprocessing.in_chans in (1, 3, 4)
    assert 0 < found.num_classes <= 1_000_000 and 0 <= found.batch <= 65_536
    assert all(np.isfinite([*found.preprocessing.mean, *found.preprocessing.std]))
    assert found.classes is None or len(found.classes) == found.num_classes
