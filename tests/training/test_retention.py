import os
import threading
from pathlib import Path

import pytest
import torch

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.callbacks import Callback
from t2t_vit.training.checkpoint import Identity, Trained, checkpoint_content, serialised, write_checkpoint
from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.optimizer import create_optimizer
from t2t_vit.training.retention import BestList, CheckpointFolder, Checkpoints
from t2t_vit.training.state import State
from waiting_checkpoints import Waiting

IDENTITY = Identity("toy", {"epochs": 3, "mean": [0.5], "arch": "toy"}, ["cat", "dog", "owl"], "epochs: 3\n")


def metrics(top1, loss=1.0):
    return Metrics(loss, top1, 1.0, 100)


@pytest.fixture
def trained(make_model, make_loader):
    model = make_model()
    ema = Ema(model, 0.9)
    optimizer = create_optimizer(model, "adamw", lr=0.1)
    images, targets = next(make_loader().epoch(0))
    torch.nn.functional.cross_entropy(model(images), targets).backward()
    optimizer.step()
    ema.update(torch.tensor(True))
    return Trained(model, optimizer, LossScaler(torch.device("cpu"), 8.0, dynamic=True), ema)


@pytest.fixture
def make(tmp_path, trained):
    def make(**settings):
        notes: list[str] = []
        checkpoints = Waiting(tmp_path / "ckpt", tmp_path / "best", IDENTITY, trained, note=notes.append, **settings)
        return checkpoints, notes

    return make


def names(folder):
    return sorted(path.name for path in folder.glob("*-*.ckpt")) if folder.exists() else []


def at(step):
    return State(10, 3, 30, step=step)


def evaluated(step, raw, ema=None, loss=1.0):
    state = at(step)
    results = {"raw": metrics(raw, loss)} | ({} if ema is None else {"ema": metrics(ema, loss)})
    state.record(results)
    return state


def test_the_file_reads_with_weights_only_and_holds_what_it_promises(tmp_path, make, trained):
    checkpoints, _ = make()
    checkpoints.on_end(evaluated(20, 0.5, 0.6))
    content = torch.load(tmp_path / "ckpt" / "toy-2_20.ckpt", weights_only=True)
    assert content["format"] == "t2t_vit"
    assert (content["version"], content["arch"], content["epoch"], content["step"]) == (1, "toy", 2, 20)
    assert content["config"] == IDENTITY.config
    assert content["classes"] == ["cat", "dog", "owl"]
    assert content["metrics"]["step"] == 20
    assert content["metrics"]["ema"] == {"loss": 1.0, "top1": 0.6, "top5": 1.0, "count": 100}
    assert content["metrics"]["raw"] == {"loss": 1.0, "top1": 0.5, "top5": 1.0, "count": 100}
    for part, module in (("model", trained.model), ("ema", trained.ema.module)):
        assert all(torch.equal(content[part][name], tensor) for name, tensor in module.state_dict().items())
    assert content["scaler"]["scale"] == 8
    assert content["model"].keys() == trained.model.state_dict().keys()
    assert not torch.equal(content["model"]["head.weight"], content["ema"]["head.weight"])
    trained.optimizer.load_state_dict(content["optimizer"])
    assert (tmp_path / "ckpt" / "toy-2_20.yaml").read_text() == "epochs: 3\n"


def test_what_a_checkpoint_says_of_the_run(trained):
    data = {"train_images": 12, "updates_per_epoch": 10}
    run = {"id": "a1", "name": "toy", "folder": "toy-2"}
    identity = Identity("toy", {"epochs": 3}, ["cat"], "", data, run)
    state = at(21)
    state.record({"raw": Metrics(1.5, 0.25, 0.75, 40)})
    state.step, state.lr, state.closed_at, state.ended = 24, 0.125, 20, True
    content = checkpoint_content(identity, trained, state)
    assert (content["data"], content["run"]) == (data, run)
    assert content["progress"] == {"lr": 0.125, "evaluated_at": 21, "closed_at": 20, "ended": True}
    assert content["metrics"] == {"step": 21, "raw": {"loss": 1.5, "top1": 0.25, "top5": 0.75, "count": 40}}
    scaler = LossScaler(torch.device("cpu"))
    assert checkpoint_content(identity, Trained(trained.model, trained.optimizer, scaler), state)["scaler"] is None


def test_callbacks_that_have_a_state_are_in_the_checkpoint(tmp_path, trained):
    class Counts(Callback):
        def state_dict(self):
            return {"count": 7}

    checkpoints = Checkpoints(
        tmp_path / "ckpt", tmp_path / "best", IDENTITY, trained, note=lambda _: None, followers=[Callback(), Counts()]
    )
    checkpoints.on_end(at(5))
    content = torch.load(tmp_path / "ckpt" / "toy-1_5.ckpt", weights_only=True)
    assert content["followers"] == {"Counts": {"count": 7}}


def test_equal_states_make_equal_bytes(tmp_path, trained):
    for name in ("first", "second"):
        write_checkpoint([tmp_path / f"{name}.ckpt"], serialised(checkpoint_content(IDENTITY, trained, at(7))), "")
    assert (tmp_path / "first.ckpt").read_bytes() == (tmp_path / "second.ckpt").read_bytes()


def test_a_view_does_not_drag_its_storage_along(tmp_path, trained):
    trained.model.pos_embed = torch.zeros(1_000_000)[:12][None]
    write_checkpoint([tmp_path / "a.ckpt"], serialised(checkpoint_content(IDENTITY, trained, at(7))), "")
    assert (tmp_path / "a.ckpt").stat().st_size < 100_000


def test_the_newest_are_kept(tmp_path, make):
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "toy-9_999.ckpt").write_text("of an earlier run")
    checkpoints, _ = make(keep_num=2, every_steps=5)
    for step in range(1, 24):
        checkpoints.on_step(at(step), None)
    assert names(tmp_path / "ckpt") == ["toy-2_15.ckpt", "toy-2_20.ckpt", "toy-9_999.ckpt"]
    checkpoints.on_end(at(23))
    assert names(tmp_path / "ckpt") == ["toy-2_20.ckpt", "toy-3_23.ckpt", "toy-9_999.ckpt"]
    assert {path.stem for path in (tmp_path / "ckpt").glob("*.yaml")} == {"toy-2_20", "toy-3_23"}


def test_seconds_and_steps_may_both_be_on_and_both_be_off(tmp_path, make, monkeypatch):
    now = 0.0
    monkeypatch.setattr("t2t_vit.training.retention.perf_counter", lambda: now)
    checkpoints, _ = make(every_steps=4, every_seconds=60)
    for step in range(1, 8):
        now += 25
        checkpoints.on_step(at(step), None)
    assert names(tmp_path / "ckpt") == ["toy-1_3.ckpt", "toy-1_4.ckpt", "toy-1_7.ckpt"]
    off, _ = make()
    now += 1e6
    off.on_step(at(9), None)
    assert "toy-1_9.ckpt" not in names(tmp_path / "ckpt")


def test_saving_the_same_step_twice_keeps_one(tmp_path, make):
    checkpoints, _ = make(keep_num=2, every_steps=5)
    checkpoints.on_step(at(5), None)
    checkpoints.on_step(at(10), None)
    checkpoints.on_end(evaluated(10, 0.5))
    assert names(tmp_path / "ckpt") == ["toy-1_10.ckpt", "toy-1_5.ckpt"]
    assert torch.load(tmp_path / "ckpt" / "toy-1_10.ckpt", weights_only=True)["metrics"]["raw"]["top1"] == 0.5


def test_raw_and_ema_have_their_own_lists(tmp_path, make):
    checkpoints, _ = make(best_num=2)
    for step, raw, ema in ((1, 0.1, 0.9), (2, 0.5, 0.8), (3, 0.3, 0.7), (4, 0.4, 0.1)):
        checkpoints.on_epoch(evaluated(step, raw, ema))
    assert names(tmp_path / "best") == ["toy-1_2.ckpt", "toy-1_4.ckpt"]
    assert names(tmp_path / "best" / "ema") == ["toy-1_1.ckpt", "toy-1_2.ckpt"]
    best = torch.load(tmp_path / "best" / "toy-1_4.ckpt", weights_only=True)["best"]
    assert [entry["file"] for entry in best["raw"]] == ["toy-1_2.ckpt", "toy-1_4.ckpt"]
    assert best["raw"][0] == {"file": "toy-1_2.ckpt", "step": 2, "top1": 0.5, "loss": 1.0}


def test_an_epoch_without_an_evaluation_ranks_nothing(tmp_path, make):
    checkpoints, _ = make()
    state = evaluated(1, 0.5)
    state.step = 2
    checkpoints.on_epoch(state)
    assert names(tmp_path / "best") == []


def test_the_best_are_those_of_the_highest_top1_whatever_their_loss(tmp_path):
    """A network that is surer of its mistakes has a higher loss, and may be right more often."""
    best = BestList(tmp_path, 2)
    for file, top1, loss in (("a", 0.5, 0.1), ("b", 0.7, 0.9), ("c", 0.6, 0.5), ("d", 0.4, 0.01), ("e", 0.8, 2.0)):
        best.offer(file, ord(file), metrics(top1, loss))
    assert [entry["file"] for entry in best.entries] == ["e", "b"]
    assert best.entries[0] == {"file": "e", "step": ord("e"), "top1": 0.8, "loss": 2.0}


def test_ties(tmp_path):
    best = BestList(tmp_path, 2)
    assert best.offer("a", 1, metrics(0.5, loss=1.0))[0]
    assert best.offer("b", 2, metrics(0.5, loss=1.0))[0]
    assert best.offer("c", 3, metrics(0.5, loss=1.0)) == (False, [])  # the earlier ones stay
    assert best.offer("d", 4, metrics(0.5, loss=0.9)) == (True, [tmp_path / "b"])  # the lower loss goes before
    assert [entry["file"] for entry in best.entries] == ["d", "a"]
    assert best.offer("d", 4, metrics(0.6)) == (True, [])  # the same file again is no second one


def test_no_best_lists(tmp_path, make):
    checkpoints, _ = make(best_num=0)
    checkpoints.on_epoch(evaluated(1, 0.5))
    assert names(tmp_path / "best") == []


def test_the_lists_go_on_and_forget_files_that_are_gone(tmp_path, make):
    first, _ = make(best_num=2)
    first.on_epoch(evaluated(1, 0.9))
    first.on_epoch(evaluated(2, 0.8))
    (tmp_path / "best" / "toy-1_1.ckpt").unlink()
    first.on_end(at(2))
    path = first.kept[-1]
    again, _ = make(best_num=2)
    again.go_on(torch.load(path, weights_only=True), path, at(2))
    again.on_epoch(evaluated(3, 0.7))
    assert names(tmp_path / "best") == ["toy-1_2.ckpt", "toy-1_3.ckpt"]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, make, monkeypatch):
    checkpoints, notes = make(every_steps=1)
    checkpoints.on_end(at(5))
    path = tmp_path / "ckpt" / "toy-1_5.ckpt"
    before = path.read_bytes()

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    checkpoints.on_step(at(5), None)  # in the middle of a run: told, and training goes on
    assert "training continues" in notes[0]
    assert "No space left" in notes[0]
    with pytest.raises(UserError, match="No space left"):  # at the end: an error
        checkpoints.on_end(at(5))
    assert path.read_bytes() == before
    assert sorted(file.name for file in (tmp_path / "ckpt").glob("toy*")) == ["toy-1_5.ckpt", "toy-1_5.yaml"]
    assert not list((tmp_path / "ckpt").glob(".*"))


def test_a_best_one_that_cannot_be_written_keeps_those_it_would_replace(tmp_path, make, monkeypatch):
    checkpoints, notes = make(best_num=1)
    checkpoints.on_epoch(evaluated(1, 0.5))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    checkpoints.on_epoch(evaluated(2, 0.6))
    assert notes
    assert names(tmp_path / "best") == ["toy-1_1.ckpt"]
    assert [entry["file"] for entry in checkpoints.best["raw"].entries] == ["toy-1_1.ckpt"]


def test_a_write_that_failed_is_not_tried_again_at_a_stop(make, monkeypatch):
    checkpoints, notes = make(every_steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        checkpoints.on_step(at(5), None)
    checkpoints.on_stop(at(5), True)
    assert len(notes) == 2 and notes[1] == "stopped at step 5; no checkpoint has been written yet"
    assert checkpoints.kept == []


def test_ctrl_c_names_what_was_saved(make):
    checkpoints, notes = make(every_steps=5)
    checkpoints.on_stop(at(3), False)
    checkpoints.on_step(at(5), None)
    checkpoints.on_epoch(evaluated(6, 0.5))
    checkpoints.on_stop(at(7), False)
    assert notes[0] == "stopped at step 3; no checkpoint has been written yet"
    assert "toy-1_5.ckpt" in notes[1]
    assert "toy-1_6.ckpt" in notes[1]


def test_a_stop_by_a_mistake_saves_what_there_is(make):
    """A broken validation image ends the run after a whole epoch: that epoch must not be lost."""
    checkpoints, notes = make()
    checkpoints.on_stop(at(4), True)
    assert [path.name for path in checkpoints.kept] == ["toy-1_4.ckpt"]
    assert "toy-1_4.ckpt" in notes[-1]
    checkpoints.on_stop(at(5), False)
    assert len(checkpoints.kept) == 1, "Ctrl-C may have left half an update"


def test_of_several_places_all_or_none(tmp_path):
    """A disk that fills between two best lists keeps no file that no list names."""
    (tmp_path / "file").write_text("")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "old.ckpt").write_bytes(b"old")
    paths = [tmp_path / "raw" / "new.ckpt", tmp_path / "raw" / "old.ckpt", tmp_path / "file" / "new.ckpt"]
    with pytest.raises(UserError):
        write_checkpoint(paths, memoryview(b"new"), "seed: 0")
    assert sorted(file.name for file in (tmp_path / "raw").iterdir()) == ["old.ckpt"]


def test_the_loop_goes_on_while_the_thread_writes(tmp_path, trained, monkeypatch):
    """What a checkpoint holds is what was there when it was made, whatever training does in the meantime."""
    allowed = threading.Event()

    def late(*words):
        assert allowed.wait(60)
        write_checkpoint(*words)

    monkeypatch.setattr("t2t_vit.training.retention.write_checkpoint", late)
    checkpoints = Checkpoints(tmp_path / "ckpt", tmp_path / "best", IDENTITY, trained, every_steps=5, note=print)
    before = trained.model.head.weight.detach().clone()
    checkpoints.on_step(at(5), None)
    with torch.no_grad():
        trained.model.head.weight.add_(1)
    checkpoints.on_step(at(6), None)
    assert names(tmp_path / "ckpt") == [] and checkpoints.kept == []
    allowed.set()
    checkpoints.on_step(at(10), None)  # one at a time: waits for the one before
    assert names(tmp_path / "ckpt")[-1] == "toy-1_5.ckpt"
    checkpoints.close()
    assert names(tmp_path / "ckpt") == ["toy-1_10.ckpt", "toy-1_5.ckpt"]
    held = torch.load(tmp_path / "ckpt" / "toy-1_5.ckpt", weights_only=True)["model"]["head.weight"]
    assert torch.equal(held, before)
    assert torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)["step"] == 10


def test_a_failure_of_the_thread_is_reported_at_the_next_point(tmp_path, trained, monkeypatch):
    notes: list[str] = []
    checkpoints = Checkpoints(tmp_path / "ckpt", tmp_path / "best", IDENTITY, trained, every_steps=5, note=notes.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        checkpoints.on_step(at(5), None)
        checkpoints.on_epoch(evaluated(6, 0.5))
        checkpoints.wait()
    assert [note.partition(":")[0] for note in notes] == [
        f"checkpoint of step {step} not written; training continues" for step in (5, 6)
    ]
    assert checkpoints.best["raw"].entries == checkpoints.kept == []
    checkpoints.on_end(at(7))
    assert names(tmp_path / "ckpt") == ["toy-1_7.ckpt"]


def test_best_leads_to_the_best_of_both_lists(tmp_path, make):
    checkpoints, _ = make(best_num=1)
    for step, raw, ema, best in ((1, 0.1, 0.2, "ema/toy-1_1"), (2, 0.3, 0.1, "toy-1_2"), (3, 0.2, 0.3, "ema/toy-1_3")):
        checkpoints.on_epoch(evaluated(step, raw, ema))
        assert (tmp_path / "best/best.ckpt").readlink() == Path(f"{best}.ckpt")


def test_after_a_divergence_the_checkpoint_from_before_is_named_and_none_is_written(tmp_path, make):
    checkpoints, notes = make(every_steps=2)
    for step in (2, 4, 6):
        checkpoints.on_step(at(step), None)
    state = at(7)
    checkpoints.on_epoch(evaluated(6, 0.5, 0.5))
    checkpoints.wait()
    state.diverged_since = 5  # so the update of step 4 broke the weights
    checkpoints.on_stop(state, True)
    assert f"from before step 4 is {tmp_path}/ckpt/toy-1_2.ckpt: --resume {tmp_path}/ckpt/toy-1_2.ckpt" in notes[-1]
    assert "toy-1_7.ckpt" not in names(tmp_path / "ckpt")
    # What is broken stays where it is, and belongs to the run no more.
    assert {"toy-1_4.ckpt", "toy-1_6.ckpt"} <= set(names(tmp_path / "ckpt"))
    assert [path.name for path in CheckpointFolder(tmp_path / "ckpt").files()] == ["toy-1_2.ckpt"]
    assert (tmp_path / "ckpt/last.ckpt").resolve().name == "toy-1_2.ckpt"
    for folder in ("best", "best/ema"):
        assert CheckpointFolder(tmp_path / folder).files() == []
    assert not (tmp_path / "best/best.ckpt").is_symlink()
    state.diverged_since = 1
    checkpoints.on_stop(state, True)
    assert notes[-1] == "stopped at step 7; no earlier checkpoint exists, so begin again with a lower --base_lr"
    assert not (tmp_path / "ckpt/last.ckpt").is_symlink()
