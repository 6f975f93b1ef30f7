"""What is kept of a run that did not end, and the fingerprint: whatever changes the answers is another one."""

import json
import os
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import OutputError, UserError
from t2t_vit.inference.item import ImageResult, Item, Prediction, Stamp, stamp_of
from t2t_vit.inference.journal import PredictionJournal, fingerprint
from t2t_vit.inference.pipeline import Answered
from t2t_vit.inference.predictor import Predictor
from t2t_vit.platforms import lock, this_host

PREPROCESSING = Preprocessing((4, 6), 0.8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
ASKED = {"checkpoint": "abc", "top_k": 2, "mean": (0.5, 0.1 + 0.2)}


def journal(
    output: Path, *, resume: bool = False, asked: object = None, notes: list[str] | None = None
) -> PredictionJournal:
    return PredictionJournal(
        str(output),
        lambda: {**ASKED, **(asked or {})},  # type: ignore[dict-item]
        lambda index, probability: Prediction(index, f"name {index}", probability),
        beside=[f"{output}.errors.jsonl"],
        resume=resume,
        note=(notes if notes is not None else []).append,
    )


def answered(number: int) -> Answered:
    path = f"ü \n\udcff{number}.png"
    if number % 5 == 4:
        return Answered(ImageResult(path, reason="it is bad"), (number, 0))
    best = (Prediction(number, f"name {number}", 1 / 3), Prediction(0, "name 0", 0.1 + 0.2))
    return Answered(ImageResult(path, best), (number, 10**18))


def batches(first: int, last: int, size: int = 4) -> list[list[Answered]]:
    return [[answered(number) for number in range(start, start + size)] for start in range(first, last, size)]


def interrupted(output: Path, made: Sequence[Sequence[Answered]]) -> Path:
    kept = journal(output)
    for batch in made:
        kept.record(batch)
    kept.close()
    return kept.path


def recalled(kept: PredictionJournal, numbers: Sequence[int]) -> list[bool]:
    found = [kept.recall(answered(number).result.path, answered(number).stamp) for number in numbers]
    assert all(result in (None, answered(number).result) for result, number in zip(found, numbers, strict=True))
    return [result is not None for result in found]


def test_a_run_of_one_batch_leaves_nothing_even_for_a_moment(tmp_path: Path) -> None:
    kept = journal(tmp_path / "p.json")
    kept.record(batches(0, 4)[0])
    assert list(tmp_path.iterdir()) == [] and not kept.can_continue
    kept.record(batches(4, 8)[0])
    assert kept.path.exists() and kept.can_continue
    kept.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 40, 10**6])
def test_whole_lines_come_back(tmp_path: Path, cut: int) -> None:
    path = interrupted(tmp_path / "p.json", batches(0, 16))
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    kept = journal(tmp_path / "p.json", resume=True)
    whole = {0: 16, 1: 12, 40: 12, 10**6: 0}[cut]
    assert recalled(kept, range(16)) == [number < whole for number in range(16)]
    kept.record([answered(number) for number in range(whole, 16)])
    kept.record([answered(16)])
    kept.close()
    again = journal(tmp_path / "p.json", resume=True)
    assert recalled(again, range(18)) == [True] * 17 + [False]
    again.close()


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "p.json", batches(0, 8))
    before = path.read_bytes()
    kept = journal(tmp_path / "p.json", resume=True)
    known = [replace(answered(number), recalled=True) for number in range(8)]
    kept.record(known[:4])
    assert path.read_bytes() == before
    kept.record([*known[4:], answered(8)])
    kept.close()
    added = path.read_bytes().removeprefix(before).splitlines()
    assert [[entry[0] for entry in json.loads(line)] for line in added] == [[answered(8).result.path]]


def test_what_changed_is_asked_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "p.json", batches(0, 12))
    kept = journal(tmp_path / "p.json", resume=True)
    for number in range(12):
        stamp: Stamp | None = {3: (3, 5), 6: None}.get(number, answered(number).stamp)
        assert (kept.recall(answered(number).result.path, stamp) is None) == (number in (3, 6))
    kept.close()


@pytest.mark.parametrize("numbers", [[0, 1, 3, 4, 11], [5, 20, 0, 1], list(range(11, -1, -1)), [30, 31]])
def test_files_may_have_come_and_gone(tmp_path: Path, numbers: list[int]) -> None:
    interrupted(tmp_path / "p.json", batches(0, 12))
    kept = journal(tmp_path / "p.json", resume=True)
    assert recalled(kept, numbers) == [number < 12 for number in numbers]
    kept.close()


def test_what_this_run_writes_is_not_read_back(tmp_path: Path) -> None:
    interrupted(tmp_path / "p.json", batches(0, 8))
    kept = journal(tmp_path / "p.json", resume=True)
    kept.record([answered(20)])
    assert recalled(kept, range(8)) == [True] * 8
    assert kept.recall(answered(20).result.path, answered(20).stamp) is None
    kept.close()


def test_another_question_is_refused_and_the_journal_kept(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "p.json", batches(0, 8))
    before = path.read_bytes()
    with pytest.raises(UserError, match="had another checkpoint and top_k; use the same one"):
        journal(tmp_path / "p.json", resume=True, asked={"checkpoint": "def", "top_k": 1})
    assert path.read_bytes() == before


def test_what_is_asked_for_now_or_was_asked_for_then_alone_is_another_question(tmp_path: Path) -> None:
    interrupted(tmp_path / "p.json", batches(0, 8))
    with pytest.raises(UserError, match="had another amp_level;"):
        journal(tmp_path / "p.json", resume=True, asked={"amp_level": "bf16"})
    first = journal(tmp_path / "q.json", asked={"amp_level": "bf16"})
    for batch in batches(0, 8):
        first.record(batch)
    first.close()
    with pytest.raises(UserError, match="had another amp_level;"):
        journal(tmp_path / "q.json", resume=True)
    journal(tmp_path / "q.json", resume=True, asked={"amp_level": "bf16"}).close()


def test_beginning_anew_says_so_and_clears_up(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "p.json", batches(0, 8))
    for name in (f".p.json.t2t-{this_host()}-abcd0123.part", f".p.json.errors.jsonl.t2t-{this_host()}-abcdef01.part"):
        (tmp_path / name).touch()
    others = [
        tmp_path / name
        for name in (f".p.json.x.t2t-{this_host()}-abcd0123.part", f".q.json.t2t-{this_host()}-abcd0123.part")
    ]
    for other in others:
        other.touch()
    notes: list[str] = []
    kept = journal(tmp_path / "p.json", notes=notes)
    assert "--resume would have continued it" in notes[0]
    assert set(tmp_path.iterdir()) == {path, *others}
    assert recalled(kept, [0, 1]) == [False, False]
    kept.finish()
    assert not path.exists()


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    first = journal(tmp_path / "p.json")
    for batch in batches(0, 8):
        first.record(batch)
    for resume in (False, True):
        with pytest.raises(UserError, match="another run is writing it"):
            journal(tmp_path / "p.json", resume=resume)
    first.close()


def test_a_journal_that_another_run_removed_a_moment_ago_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening it and its lock the run that had it came to its end: what is written there would have no name."""
    path = interrupted(tmp_path / "p.json", batches(0, 8))
    removed: list[int] = []

    def late(descriptor: int) -> None:
        if not removed:
            path.unlink()
        removed.append(descriptor)
        lock(descriptor)

    monkeypatch.setattr("t2t_vit.inference.journal.lock", late)
    kept = journal(tmp_path / "p.json")
    for batch in batches(0, 8):
        kept.record(batch)
    assert len(removed) == 2 and len(path.read_bytes().splitlines()) == 3
    with pytest.raises(UserError, match="another run is writing it"):
        journal(tmp_path / "p.json")
    kept.close()


def test_a_journal_on_a_full_disk_is_one_sentence_and_what_was_whole_is_continued(tmp_path: Path) -> None:
    kept = journal(tmp_path / "p.json")
    for batch in batches(0, 8):
        kept.record(batch)
    whole = kept.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 50, before[1]))
    try:
        with pytest.raises(
            OutputError, match=r"p\.json\.journal: could not be written \(File too large: it takes more"
        ):
            kept.record(batches(8, 12)[0])
        assert kept.can_continue
        kept.close()  # without a second error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept.path.stat().st_size == whole + 50
    again = journal(tmp_path / "p.json", resume=True)
    assert recalled(again, range(12)) == [True] * 8 + [False] * 4
    again.close()


HEADER = {"t2t_vit infer": 2, **json.loads(json.dumps(ASKED))}


@pytest.mark.parametrize("content", [b"", b'{"t2t_vit in', b'{"t2t_vit infer": 2, "check', b'{"t2t_vit infer": [[[[\n'])
def test_a_journal_that_holds_nothing_yet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json.journal").write_bytes(content)
    notes: list[str] = []
    kept = journal(tmp_path / "p.json", resume=True, notes=notes)
    assert "starting from the beginning" in notes[0]
    for batch in batches(0, 8):
        kept.record(batch)
    header, *lines = kept.path.read_text().splitlines()
    assert json.loads(header) == HEADER and len(lines) == 2
    kept.close()


@pytest.mark.parametrize("content", [b"\0" * 99, b"no journal\n", b"[]\n", b'{"checkpoint": "abc"', b"{}"])
@pytest.mark.parametrize("resume", [False, True])
def test_another_programs_file_is_left_alone(tmp_path: Path, content: bytes, resume: bool) -> None:
    path = tmp_path / "lab.journal"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match="is not a journal of infer, but infer keeps its journal there; choose another output"
    ):
        journal(tmp_path / "lab", resume=resume)
    assert path.read_bytes() == content


@pytest.mark.parametrize("resume", [False, True])
def test_a_link_in_the_journals_place(tmp_path: Path, resume: bool) -> None:
    target = interrupted(tmp_path / "other.json", batches(0, 8))
    whole = target.read_bytes()
    for to in (target, tmp_path / "nowhere"):
        link = tmp_path / "p.json.journal"
        link.unlink(missing_ok=True)
        link.symlink_to(to)
        with pytest.raises(UserError, match="is a link or not a file"):
            journal(tmp_path / "p.json", resume=resume)
    assert target.read_bytes() == whole and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "row",
    [
        '["PATH", [0, 1000000000000000000], [[-1, 0.5]]]',
        '["PATH", [0, 1000000000000000000], [[true, 0.5]]]',
        '["PATH", [0, 1000000000000000000], [[0, NaN]]]',
        '["PATH", [0, 1000000000000000000], [[0, 7.0]]]',
        '["PATH", [0, 1000000000000000000], [[0]]]',
        '["PATH", [0, 1000000000000000000], []]',
        '["PATH", [0, 1000000000000000000], 3]',
        '["PATH"]',
        "7",
    ],
)
def test_a_row_that_was_changed_is_asked_again(tmp_path: Path, row: str) -> None:
    path = json.dumps(answered(0).result.path)[1:-1]
    lines = [json.dumps(HEADER), f"[{row.replace('PATH', path)}]", "{}", "[" * 100_000]
    (tmp_path / "p.json.journal").write_text("".join(f"{line}\n" for line in lines))
    kept = journal(tmp_path / "p.json", resume=True)
    assert recalled(kept, [0, 1]) == [False, False]
    kept.close()


class Nothing(Predictor):
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"{len(images)} images are computed")


def fingerprint_of(
    path: Path, *, classes: str = "ab", top_k: int = 3, crop_pct: float = 0.8, **asked: object
) -> dict[str, Any]:
    preprocessing = Preprocessing((4, 6), crop_pct, PREPROCESSING.mean, PREPROCESSING.std)
    return fingerprint(str(path), Nothing(preprocessing, tuple(classes)), top_k, asked)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before | after if before.get(key) != after.get(key)]


def test_a_checkpoint_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    """Also where size and time stay, as with a copy that keeps them."""
    one, two = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    for path in (one, two):
        path.write_bytes(b"content")
    before = fingerprint_of(one)
    assert changed(before, fingerprint_of(two)) == []
    times = one.stat()
    one.write_bytes(b"contenu")
    os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed(before, fingerprint_of(one)) == ["checkpoint"]


def test_every_file_of_a_model_counts(tmp_path: Path) -> None:
    folder, graph, weights = tmp_path / "folder", tmp_path / "net.xml", tmp_path / "net.bin"
    (folder / "deep").mkdir(parents=True)
    files = [folder / "config.json", folder / "deep/more", folder / "model.safetensors", graph, weights]
    for number, path in enumerate(files):
        path.write_text(str(number))
    for path in files:
        place = graph if path in (graph, weights) else folder
        before, content = fingerprint_of(place), path.read_bytes()
        path.write_text("x")
        assert changed(before, fingerprint_of(place)) == ["checkpoint"], path
        path.write_bytes(content)
        assert changed(before, fingerprint_of(place)) == []


def test_everything_that_changes_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.touch()
    before = fingerprint_of(path, amp_level="O0")
    assert before["preprocessing"] == PREPROCESSING.to_dict() and before["top_k"] == 3
    assert changed(before, fingerprint_of(path, amp_level="bf16")) == ["amp_level"]
    assert changed(before, fingerprint_of(path, amp_level="O0", top_k=4)) == ["top_k"]
    assert changed(before, fingerprint_of(path, amp_level="O0", classes="ba")) == ["list of classes"]
    assert changed(before, fingerprint_of(path, amp_level="O0", crop_pct=0.9)) == ["preprocessing"]


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
