"""Files appear whole or not at all: a fault at every call, a disk without room, a kill, two processes at once."""

import os
import re
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2t_vit
from t2t_vit import files
from t2t_vit.data.images import ArrayImages
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.readable import Look, remember, remembered
from t2t_vit.errors import OutputError, UserError
from t2t_vit.evaluation.answers import write_answers
from t2t_vit.evaluation.outcomes import Outcomes
from t2t_vit.export.file_formats import FORMATS
from t2t_vit.export.job import ExportJob
from t2t_vit.export.write import Evidence, export_model
from t2t_vit.files import atomic_write, files_made_in, place_together, remove_leftovers, working_folder
from t2t_vit.inference.item import ImageResult, Prediction
from t2t_vit.inference.journal import PredictionJournal
from t2t_vit.inference.pipeline import Answered
from t2t_vit.inference.runtime_predictors import OpenVinoPredictor, _check_pair, openvino_mark
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.inference.writers import open_writer
from t2t_vit.model import T2TViT, from_pretrained
from t2t_vit.platforms import NoLocksError, this_host
from t2t_vit.weights import convert_weights, read_weights

Door = Callable[[Path, int], None]  # writes the files of a command into a folder, of one content or another
Content = dict[str, bytes]


@pytest.fixture(scope="module")
def networks() -> list[T2TViT]:
    """Two of one kind, for other classes."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(t2t_vit.create_model("t2t_vit_quickstart", image_size=28, in_chans=1, num_classes=3))
    return made


@pytest.fixture
def doors(networks: list[T2TViT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Door]:
    sources = []
    for number, model in enumerate(networks):
        (tmp_path / "sources").mkdir(exist_ok=True)
        sources.append(tmp_path / "sources" / f"{number}.pth")
        torch.save(model.state_dict(), sources[-1])

    def converted(name: str) -> Door:
        return lambda folder, number: void(convert_weights(sources[number], folder / name))

    def predicted(chosen: str) -> Door:
        def write(folder: Path, number: int) -> None:
            with open_writer(folder / f"p.{chosen}", chosen, top_k=1) as writer:
                for image in range(500):
                    writer.write(ImageResult(f"{image}.png", (Prediction(number, None, 1 / (1 + image)),)))

        return write

    def exported(file_format: str, name: str) -> Door:
        def write(folder: Path, number: int) -> None:
            predictor = TorchPredictor(networks[number], Preprocessing((28, 28), in_chans=1), None)
            evidence = Evidence(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
            export_model(
                predictor, folder / name, arch="t2t_vit_quickstart", file_format=file_format, evidence=evidence
            )

        return write

    def drawn(folder: Path, number: int) -> None:
        noise = np.random.default_rng(number).integers(0, 256, (99, 99, 3), dtype=np.uint8)
        with atomic_write(folder / "preview.png") as file:
            Image.fromarray(noise).save(file, format="PNG")

    def answered(folder: Path, number: int) -> None:
        pixels = np.arange(1000, dtype="<u4").view(np.uint8).reshape(1000, 2, 2)  # of images that all differ
        images = ArrayImages(pixels, np.zeros(1000, np.int64), ("a",), "L", "a set")
        sure, classes = torch.full((1000,), 0.5, dtype=torch.float64), torch.full((1000,), number)
        write_answers(folder / "answers.npy", Outcomes(classes, classes, sure, sure, classes, None), images)

    def in_two(job: ExportJob, path: Path) -> None:
        content = next(job.model.parameters()).detach().numpy().tobytes() * 20  # tells one network from another
        path.write_bytes(content)
        path.with_suffix(".bin").write_bytes(content)

    monkeypatch.setitem(FORMATS, "ONNX", replace(FORMATS["ONNX"], write=in_two, runtime=lambda: "it is not there"))
    return {
        "safetensors": converted("w.safetensors"),
        "torch": converted("w.pth"),
        "mindspore": converted("w.ckpt"),
        "save_pretrained": lambda folder, number: networks[number].save_pretrained(folder),
        **{chosen: predicted(chosen) for chosen in ("json", "jsonl", "csv", "parquet")},
        "answers": answered,
        "preview": drawn,
        "export": exported("SAFETENSORS", "net.safetensors"),
        "export in two": exported("ONNX", "net.onnx"),
    }


def void(_: object) -> None:
    """For a lambda that is to return nothing."""


def content_of(folder: Path) -> Content:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = (
    "safetensors", "torch", "mindspore", "save_pretrained", "json", "jsonl", "csv", "parquet", "answers", "preview",
    "export", "export in two",
)  # fmt: skip


class Faults:
    """Lets a call of one kind fail, the first, the second, ..., until all are passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self._original, self.left, self.error = getattr(owner, name), 0, OSError(28, "No space left on device")
        monkeypatch.setattr(owner, name, self._called)

    def _called(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self._original(*arguments, **named)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_at_any_call_keeps_all_files_or_replaces_all(
    name: str, call: str, doors: dict[str, Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    doors[name](folder, 1)
    new = content_of(folder)
    shutil.rmtree(folder)
    doors[name](folder, 0)
    old = content_of(folder)
    assert old != new and old.keys() == new.keys()
    faults, failures = Faults(monkeypatch, *((os, call) if call == "fsync" else (files, call))), 0
    for which in range(1, 20):
        faults.left = which
        try:
            doors[name](folder, 1)
        except OutputError as error:
            failures += 1
            assert str(folder) in str(error) and "No space left on device" in str(error)
            assert str(error).endswith("; the previous file is kept"), error
            assert content_of(folder) == old
        if faults.left > 0:
            break
    assert failures >= 1 and faults.left > 0
    assert content_of(folder) == new


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file is refused by the system, whoever writes: Python or a library in C."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_system_refuses_to_write_is_one_sentence(name: str, doors: dict[str, Door], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(OutputError, match=r"File too large.*; nothing was written$") as caught, no_file_beyond(2048):
        doors[name](folder, 1)
    assert str(folder) in str(caught.value) and list(folder.iterdir()) == []
    doors[name](folder, 0)
    old = content_of(folder)
    with pytest.raises(OutputError, match=r"written \(.*; the previous file is kept$"), no_file_beyond(2048):
        doors[name](folder, 1)
    assert content_of(folder) == old


def test_a_library_with_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's has no number, torch's is no OSError but has one as its cause, OpenVINO's says nothing."""
    path = tmp_path / "file"

    def torchs() -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 704 vs 598") from error

    def streams() -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    for fails, said in ((torchs, r"No space left on device: it takes"), (streams, "basic_ios::clear: iostream error")):
        with pytest.raises(OutputError, match=rf"file: could not be written \({said}"), atomic_write(path):
            fails()
    with pytest.raises(RuntimeError, match=r"^a mistake$"), atomic_write(path):
        raise RuntimeError("a mistake")
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    said = r"file: could not be written \(No space left on device: it takes more than"
    with pytest.raises(OutputError, match=said), atomic_write(path) as file:
        file.write(b"12345")
        file.flush()
        raise RuntimeError("a mistake")
    with pytest.raises(TypeError, match=r"^a mistake$"), atomic_write(path):
        raise TypeError("a mistake")  # ours, however full the disk is


def test_what_a_library_lacks_is_no_file_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    for lacks in (
        OSError("libcuda.so.1: cannot open shared object file: No such file or directory"),
        FileNotFoundError(2, "No such file or directory", "ninja"),
        PermissionError(13, "Permission denied", str(tmp_path / "another")),
        BlockingIOError(11, "Resource temporarily unavailable", 3),
    ):
        with pytest.raises(type(lacks)) as caught, atomic_write(path):
            raise lacks
        assert caught.value is lacks
    for error in (OSError(30, "Read-only file system"), OSError("8 requested and 0 written")):
        with pytest.raises(OutputError, match=r"file: could not be written \("), atomic_write(path):
            raise error
    with (
        pytest.raises(OutputError, match="Permission denied"),
        working_folder(tmp_path, "export") as folder,
        files.failing_on_a_full_disk(path, folder),
    ):
        raise PermissionError(13, "Permission denied", str(folder / "file" / "within"))
    nothing = shutil.disk_usage(tmp_path)._replace(total=0, used=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nothing)
    with pytest.raises(RuntimeError, match=r"^a mistake$"), atomic_write(path):
        raise RuntimeError("a mistake")
    assert content_of(tmp_path) == {}


def a_journal(output: Path) -> PredictionJournal:
    return PredictionJournal(
        str(output), dict, lambda index, share: Prediction(index, None, share), resume=False, note=lambda _: None
    )


def test_a_full_journal_does_not_speak_of_a_previous_file(tmp_path: Path) -> None:
    journal = a_journal(tmp_path / "p.json")
    batch = [Answered(ImageResult("x" * 2000, reason="damaged"), None, recalled=False)]
    journal.record(batch)
    said = r"File too large.*; what it has so far stays, and --resume continues from there$"
    with pytest.raises(OutputError, match=said), no_file_beyond(2048):
        journal.record(batch)
    journal.close()


def test_a_journal_is_opened_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.json.journal").touch()
    asked: list[object] = []

    def never(*states: object) -> bool:
        asked.append(states)
        return False

    monkeypatch.setattr(os.path, "samestat", never)
    a_journal(tmp_path / "p.json").close()
    assert 0 < len(asked) < 30


# ----- killed ----- #


class Killed(BaseException):
    """As by SIGKILL: nothing is tidied up; the system gives up the locks."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, which: int) -> Iterator[None]:
    """In the block the process ends at the `which`-th rename, before it is done."""
    with monkeypatch.context() as patch:
        faults = Faults(patch, files, "replace")
        faults.left, faults.error = which, Killed()  # type: ignore[assignment]
        for owner, name in ((Path, "unlink"), (shutil, "rmtree"), (files, "_restore")):
            original = getattr(owner, name)

            def until_then(*arguments: Any, original: Any = original, **named: Any) -> None:
                if faults.left > 0:
                    original(*arguments, **named)

            patch.setattr(owner, name, until_then)
        with pytest.raises(Killed):
            yield


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_kill_leaves_goes_at_the_next_start(
    name: str, doors: dict[str, Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    doors[name](folder, 0)
    old = content_of(folder)
    for _ in range(2):  # they do not pile up
        with killed_at(monkeypatch, 1):
            doors[name](folder, 1)
        assert len(hidden(folder)) == 1
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name in old} == old
    doors[name](folder, 1)
    assert content_of(folder).keys() == old.keys()


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path, "w") as slow:
        slow.write("slow")
        remove_leftovers(tmp_path)
        with atomic_write(path, "w") as fast:
            fast.write("fast")
        assert path.read_text() == "fast" and len(hidden(tmp_path)) == 1
    assert path.read_text() == "slow" and hidden(tmp_path) == []
    with working_folder(tmp_path, "export") as one, working_folder(tmp_path, "export") as other:
        assert one.is_dir() and other.is_dir()
    assert hidden(tmp_path) == []


def test_a_folder_that_is_removed_keeps_its_lock_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in between leaves what the next start knows for a leftover."""
    original, kept = shutil.rmtree, list[list[str]]()

    def seen(path: Path, **named: Any) -> None:
        kept.append([each.name for each in Path(path).iterdir()])
        original(path, **named)

    monkeypatch.setattr(shutil, "rmtree", seen)
    with working_folder(tmp_path, "export") as folder:
        (folder / "file").touch()
        (folder / "within").mkdir()
    assert kept == [[]] and hidden(tmp_path) == []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # what is within cannot be removed
    with working_folder(tmp_path, "export") as folder:
        (folder / "within").mkdir()
    assert {path.name for path in folder.iterdir()} == {".lock", "within"}
    monkeypatch.undo()
    with working_folder(tmp_path, "export"):
        assert not folder.exists()


def test_a_network_disk_keeps_the_name_of_a_file_that_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.unlink

    def renamed(path: Path, missing_ok: bool = False) -> None:
        if path.name != ".lock":
            return original(path, missing_ok)
        if path.exists():
            path.rename(path.with_name(".nfs0001"))
        return None

    closes = os.close

    def closed(descriptor: int) -> None:
        closes(descriptor)
        for left in tmp_path.glob("*/.nfs0001"):
            original(left)

    monkeypatch.setattr(Path, "unlink", renamed)
    monkeypatch.setattr(os, "close", closed)
    with working_folder(tmp_path, "export") as folder:
        (folder / "file").touch()
    assert hidden(tmp_path) == []
    with killed_at(monkeypatch, 1), working_folder(tmp_path, "export") as folder:
        (folder / "file").touch()
        files._take_place(folder / "file", tmp_path / "file")
    assert hidden(tmp_path) == [folder.name]
    with working_folder(tmp_path, "export"):
        assert not folder.exists()


@pytest.mark.parametrize("why", ["another machine's", "no locks"])
def test_a_leftover_of_which_no_lock_says_anything_goes_after_a_day(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "this_host", lambda: "another" if why == "another machine's" else this_host())
        with killed_at(patch, 1), atomic_write(tmp_path / "file") as file:
            file.write(b"half")
        with killed_at(patch, 1), working_folder(tmp_path, "export") as folder:
            (folder / "file").touch()
            files._take_place(folder / "file", tmp_path / "file")
    made = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(made) == 2

    def none(_: int) -> None:
        raise NoLocksError

    if why == "no locks":
        monkeypatch.setattr(files, "lock", none)
    for hours, stay in ((23, True), (25, False)):
        then = time.time() - 3600 * hours
        for path in (folder / "file", folder / ".lock", *made):
            os.utime(path, (then, then))
        with atomic_write(tmp_path / "file"), working_folder(tmp_path, "export"):
            pass
        assert [path.exists() for path in made] == [stay, stay]


def test_a_machines_name_is_a_part_of_a_files(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for name in ("node-1.example.org", "a" * 60 + "0", "a" * 60 + "1", "", "../x"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        names.append(this_host.__wrapped__())
    assert names[0] == "node_1_example_org" and len(set(names)) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,32}", name) for name in names)


def test_a_folder_that_has_gone_is_one_sentence(tmp_path: Path) -> None:
    said = r"file: could not be written \(No such file or directory\); nothing was written"
    with pytest.raises(OutputError, match=said), atomic_write(tmp_path / "gone" / "file") as file:
        file.write(b"content")
        shutil.rmtree(tmp_path / "gone")


def test_only_halves_of_the_same_file_go(tmp_path: Path) -> None:
    mark = f"t2t-{this_host()}"
    others = [f".file.{mark}-0123456.part", f".file.{mark}-0123456g.part", f"file.{mark}-01234567.part"]
    others += [".file.01234567.part", ".file.t2t-01234567.part", f".file.txt.{mark}-01234567.part"]
    for name in (*others, f".file.{mark}-01234567.part"):
        (tmp_path / name).touch()
    (tmp_path / ".t2t_vit-export-strange").mkdir()
    (tmp_path / ".t2t_vit-export-strange" / "file").touch()  # without a lock it is nobody's
    with atomic_write(tmp_path / "file"), working_folder(tmp_path, "export"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*others, "file", ".t2t_vit-export-strange"}
    remove_leftovers(tmp_path)  # of any file, which only the last one is
    assert {path.name for path in tmp_path.iterdir()} == {*others[:-1], "file", ".t2t_vit-export-strange"}


def test_who_is_taken_for_a_leftover_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of a file, or a folder, and its lock another process may remove it."""
    original, taken = files._is_kept_from_others, list[Path]()

    def late(descriptor: int, path: Path) -> bool:
        if not taken:
            taken.append(path)
            remove_leftovers(tmp_path)
            files._remove_left_folders(tmp_path, "export")
            assert not path.exists()
        return original(descriptor, path)

    monkeypatch.setattr(files, "_is_kept_from_others", late)
    with atomic_write(tmp_path / "file", "w") as file:
        file.write("whole")
    taken.clear()
    with working_folder(tmp_path, "export") as folder:
        assert folder.is_dir() and files_made_in(folder) == []
    taken.clear()
    made = tempfile.mkdtemp

    def swept(**named: Any) -> str:
        folder = made(**named)
        if not taken:
            taken.append(Path(folder))
            files._remove_left_folders(tmp_path, "export")
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with working_folder(tmp_path, "export") as folder:
        assert folder.is_dir() and folder != taken[0]
    assert content_of(tmp_path) == {"file": b"whole"}


@pytest.mark.parametrize("why", ["beaten", "strange"])
def test_who_never_gets_a_lock_goes_on_without(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def fails(*_: Any) -> None:
        turns.append(0)
        raise BlockingIOError if why == "beaten" else OSError(116, "Stale file handle")

    monkeypatch.setattr(*((files, "lock") if why == "beaten" else (os.path, "samestat")), fails)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with atomic_write(tmp_path / "file", "w") as file:
        file.write("whole")
        assert len(hidden(tmp_path)) == 1
    with working_folder(tmp_path, "export") as folder:
        assert hidden(tmp_path) == [folder.name]
    assert content_of(tmp_path) == {"file": b"whole"} and len(turns) == 40
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_long_name_has_room_for_what_is_beside_it(tmp_path: Path) -> None:
    for name in ("写" * 85, "a" * 255):
        with atomic_write(tmp_path / name) as file:
            file.write(b"content")
        assert (tmp_path / name).read_bytes() == b"content"


# ----- files that belong together ----- #


def test_a_saved_folder_of_two_saves_does_not_open(
    networks: list[T2TViT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    networks[0].save_pretrained(folder, classes=["a", "b", "c"])
    for killed in (2, 3):  # the weights are new, and nothing else, or the card as well
        with killed_at(monkeypatch, killed):
            networks[1].save_pretrained(folder, classes=["d", "e", "f"])
        for opens in (from_pretrained, t2t_vit.load, read_weights):
            with pytest.raises(UserError, match=r"config\.json and model\.safetensors were not saved together"):
                opens(folder)
        networks[0].save_pretrained(folder, classes=["a", "b", "c"])  # "save the network again"
        assert torch.equal(from_pretrained(folder).head.weight, networks[0].head.weight)
    networks[0].save_pretrained(tmp_path / "other", classes=["d", "e", "f"])
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(UserError, match=r"or, where they do belong together, remove t2t_vit_saved from config\.json"):
        from_pretrained(folder)
    config = [line for line in (folder / "config.json").read_text().splitlines() if "t2t_vit_saved" not in line]
    (folder / "config.json").write_text("\n".join(config).replace('"t2t_vit",\n}', '"t2t_vit"\n}'))
    assert read_weights(folder).classes == ("a", "b", "c")
    networks[0].save_pretrained(folder, classes=["a", "b", "c"])
    config_text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config_text.replace('"a"', '"another"'))  # edited by hand: it still belongs
    assert read_weights(folder).classes == ("another", "b", "c")


def test_a_graph_with_the_weights_of_another_export_does_not_open(tmp_path: Path) -> None:
    def pair(name: str, digest: str | None, mark: bytes) -> Path:
        said = f'<t2t_vit_export value="{digest}" />' if digest else ""
        (tmp_path / f"{name}.xml").write_text(f"<net><layers /><rt_info>{said}</rt_info></net>")
        (tmp_path / f"{name}.bin").write_bytes(b"weights" + mark)
        return tmp_path / f"{name}.xml"

    one, other = "0123456789abcdef" * 2, "f123456789abcdef" * 2
    _check_pair(pair("of one export", one, openvino_mark(one)))
    _check_pair(pair("saved anew by another program", one, b""))
    _check_pair(pair("of an older version", None, b""))
    for digest in (other, None):
        with pytest.raises(UserError, match=r"mixed\.xml: was not exported together with mixed\.bin"):
            OpenVinoPredictor(pair("mixed", digest, openvino_mark(one)))


def test_two_exports_of_two_files_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits until the first has placed both; what it waits for is the lock of the folder."""
    order: list[str] = []
    original = files._take_place
    with working_folder(tmp_path, "one") as first, working_folder(tmp_path, "two") as second:
        for folder in (first, second):
            for name in ("a", "b"):
                (folder / name).write_text(folder.name)

        def placed(beside: Path, path: Path) -> None:
            order.append(beside.parent.name)
            original(beside, path)
            if len(order) == 1:
                monkeypatch.setattr(files, "_SECONDS_FOR_OTHERS", 0.05)
                descriptor = os.open(tmp_path, os.O_RDONLY)
                with pytest.raises(BlockingIOError):
                    files._wait_for(descriptor)
                os.close(descriptor)

        monkeypatch.setattr(files, "_take_place", placed)
        place_together(first, [tmp_path / "a", tmp_path / "b"])
        place_together(second, [tmp_path / "a", tmp_path / "b"])
        assert order == [first.name, first.name, second.name, second.name]
        assert {(tmp_path / name).read_text() for name in ("a", "b")} == {second.name}


def test_a_file_that_cannot_be_put_back_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a" * 255, "b", "c")]  # a long name has a second one, too
    for path in paths[:2]:
        path.write_text("old")
    renames: list[Path] = []

    def failing(source: Path, target: Path) -> None:
        renames.append(source)
        if len(renames) >= 3:
            raise OSError(5, "Input/output error")
        source.replace(target)

    with pytest.raises(OutputError) as caught, working_folder(tmp_path, "export") as folder:
        for path in paths:
            (folder / path.name).write_text("new")
        monkeypatch.setattr(files, "replace", failing)
        place_together(folder, paths)
    assert f"the previous b could not be put back (Input/output error): it lies at {folder}" in str(caught.value)
    assert "kept" not in str(caught.value)
    with working_folder(tmp_path, "export"):
        pass
    assert [(folder / f"{number}.before").read_text() for number in (0, 1)] == ["old", "old"]


def test_no_file_is_replaced_before_all_have_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no hard links they are copies, for which a disk may have no room."""
    paths, copies = [tmp_path / name for name in ("a", "b")], list[Path]()
    for path in paths:
        path.write_text("old")

    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    def full(path: Path, name: Path) -> None:
        copies.append(path)
        if len(copies) == 2:
            raise OSError(28, "No space left on device")
        shutil.copyfile(path, name)

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    monkeypatch.setattr(shutil, "copy2", full)
    monkeypatch.setattr(files, "_take_place", lambda *_: pytest.fail("a file was replaced"))
    with pytest.raises(OutputError, match="the previous file is kept"), working_folder(tmp_path, "export") as folder:
        for path in paths:
            (folder / path.name).write_text("new")
        place_together(folder, paths)
    assert content_of(tmp_path) == {"a": b"old", "b": b"old"}


# ----- caches ----- #


def test_what_was_found_of_a_data_set_is_read_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2T_VIT_CACHE", str(tmp_path))
    look = Look(np.full((50, 2), 7), np.ones(50, np.bool_), {3: "damaged"})
    remember("one", look)
    kept = tmp_path / "looked_at" / "one.npz"
    whole = kept.read_bytes()
    for length in range(0, len(whole), 7):
        kept.write_bytes(whole[:length])
        assert remembered("one", 50) is None
    for at in range(0, len(whole), 11):
        kept.write_bytes(whole[:at] + b"\xff\0(" + whole[at + 3 :])
        found = remembered("one", 50)
        assert found is None or found.reasons == {3: "damaged"}
    with killed_at(monkeypatch, 1):
        remember("two", look)
    assert remembered("two", 50) is None
    remember("three", look)
    assert sorted(path.name for path in kept.parent.iterdir()) == ["one.npz", "three.npz"]
