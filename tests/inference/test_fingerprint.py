"""What the answers depend on beside the images: whatever changes them is another fingerprint."""

import os
from pathlib import Path
from typing import Any

import torch

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.item import Item, stamp_of
from t2t_vit.inference.journal import fingerprint
from t2t_vit.inference.predictor import Predictor

PREPROCESSING = Preprocessing((4, 6), 0.8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


class Nothing(Predictor):
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"{len(images)} images are computed")


def of(path: Path, *, classes: str = "ab", top_k: int = 3, crop_pct: float = 0.8, **asked: object) -> dict[str, Any]:
    preprocessing = Preprocessing((4, 6), crop_pct, PREPROCESSING.mean, PREPROCESSING.std)
    return fingerprint(str(path), Nothing(preprocessing, tuple(classes)), top_k, asked)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before | after if before.get(key) != after.get(key)]


def test_a_checkpoint_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    """Also where size and time stay, as with a copy that keeps them."""
    one, two = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    for path in (one, two):
        path.write_bytes(b"content")
    before = of(one)
    assert changed(before, of(two)) == []
    times = one.stat()
    one.write_bytes(b"contenu")
    os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed(before, of(one)) == ["checkpoint"]


def test_every_file_of_a_model_counts(tmp_path: Path) -> None:
    folder, graph, weights = tmp_path / "folder", tmp_path / "net.xml", tmp_path / "net.bin"
    (folder / "deep").mkdir(parents=True)
    files = [folder / "config.json", folder / "deep/more", folder / "model.safetensors", graph, weights]
    for number, path in enumerate(files):
        path.write_text(str(number))
    for path in files:
        place = graph if path in (graph, weights) else folder
        before, content = of(place), path.read_bytes()
        path.write_text("x")
        assert changed(before, of(place)) == ["checkpoint"], path
        path.write_bytes(content)
        assert changed(before, of(place)) == []


def test_everything_that_changes_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.touch()
    before = of(path, amp_level="O0")
    assert before["preprocessing"] == PREPROCESSING.to_dict() and before["top_k"] == 3
    assert changed(before, of(path, amp_level="bf16")) == ["amp_level"]
    assert changed(before, of(path, amp_level="O0", top_k=4)) == ["top_k"]
    assert changed(before, of(path, amp_level="O0", classes="ba")) == ["list of classes"]
    assert changed(before, of(path, amp_level="O0", crop_pct=0.9)) == ["preprocessing"]


def test_an_image_that_changed_has_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"abc")
    os.utime(path, ns=(5, 7))
    assert stamp_of(str(path)) == Item(str(path)).stamp() == (3, 7)
    path.write_bytes(b"abcd")
    os.utime(path, ns=(5, 7))
    assert stamp_of(str(path)) == (4, 7)
    assert Item("in/an archive", lambda: b"", (8, 9)).stamp() == (8, 9)
    assert stamp_of(str(tmp_path / "gone")) is stamp_of("a\0b") is None
