import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2t_vit.errors import UserError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.state import State
from t2t_vit.training.step import StepMetrics
from t2t_vit.training.tensorboard import ShowInputs, TensorBoard, grid, write_graph


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_scalars(tmp_path):
    state = State(10, 1, 10)
    board = TensorBoard(state, tmp_path, every=2)
    for _ in range(10):
        state.step += 1
        norm = torch.tensor(1.0)
        board.on_step(state, StepMetrics(torch.tensor(float(state.step)), norm, norm < 0, norm, 4))
    state.record({"raw": Metrics(1.0, 0.5, 0.9, 10), "ema": Metrics(1.0, 0.25, 0.9, 10)})
    board.on_epoch(state)
    board.close()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5), (10, 9.5),
    ]  # fmt: skip
    assert events.Scalars("raw/top1")[0].value == 0.5
    assert events.Scalars("ema/top1")[0].value == 0.25
    assert {"train/lr", "speed/images_per_second", "speed/data_wait"} <= set(events.Tags()["scalars"])


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="summary_root_dir"):
        TensorBoard(State(10, 1, 10), tmp_path / "file" / "run")


def test_nothing_every_zero_steps(tmp_path):
    state = State(10, 1, 10)
    board = TensorBoard(state, tmp_path, every=0)
    board.on_step(state, None)
    board.close()
    assert read(tmp_path).Tags()["scalars"] == []


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_are_shown_and_passed_through(tmp_path, make_loader, channels):
    board = TensorBoard(State(10, 1, 10), tmp_path)
    loader = make_loader(batches=3)
    shown = ShowInputs(loader, board.writer, mean=[0.5] * 3, std=[0.2] * 3, count=5)
    assert len(shown) == 3
    for (images, targets), (own, classes) in zip(shown.epoch(1, start=1), loader.epoch(1, start=1), strict=True):
        assert torch.equal(images, own)
        assert torch.equal(targets, classes)
    board.close()
    (image,) = read(tmp_path).Images("inputs/augmented")
    assert (image.width, image.height, image.step) == (10, 6, 4)
    assert grid(torch.zeros(5, channels, 2, 2)).shape == (3, 6, 10)


def test_the_graph(tmp_path):
    board = TensorBoard(State(10, 1, 10), tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()).train()
    assert "relu" in write_graph(board.writer, model, torch.zeros(2, 4))
    board.close()
    assert model.training
    assert "model/graph/text_summary" in read(tmp_path).Tags()["tensors"]
