from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2t_vit.errors import UserError
from t2t_vit.training.tensorboard import TensorBoard, export_graph, graph_def


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_scalars_and_pictures(tmp_path):
    board = TensorBoard(tmp_path)
    board.scalars(3, {"train/loss": 1.5, "speed/data_wait": 0.25})
    board.scalars(6, {"train/loss": 1.25})
    board.image(6, "inputs/augmented", torch.zeros(3, 4, 5))
    board.close()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 1.5), (6, 1.25)]
    assert events.Scalars("speed/data_wait")[0].value == 0.25
    (image,) = events.Images("inputs/augmented")
    assert (image.width, image.height, image.step) == (5, 4, 6)


def test_what_is_done_again_is_shown_once(tmp_path):
    for first, steps in ((0, range(1, 6)), (3, range(4, 8))):
        board = TensorBoard(tmp_path, first)
        for step in steps:
            board.scalars(step, {"train/loss": float(10 * first + step)})
        board.close()
    shown = [(event.step, event.value) for event in read(tmp_path).Scalars("train/loss")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 34.0), (5, 35.0), (6, 36.0), (7, 37.0)]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="summary_root_dir"):
        TensorBoard(tmp_path / "file" / "run")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(2))
        self.register_buffer("offset", torch.ones(4))

    def forward(self, images):
        for block in self.blocks:
            images = block(images) + images
        return (images + self.offset).chunk(2, 1)[0]


def test_the_graph_has_the_modules_as_scopes_and_loads_in_tensorboard(tmp_path):
    model = Net().train()
    graph = graph_def(export_graph(model, torch.zeros(2, 4)))
    assert model.training
    board = TensorBoard(tmp_path)
    board.graph(graph)
    board.close()
    loaded = read(tmp_path).Graph()
    nodes = {node.name: node for node in loaded.node}
    assert len(nodes) == len(loaded.node)
    assert {"input/images", "output", "offset", "blocks/0/0/weight", "blocks/1/0/linear", "blocks/1/1/relu"} <= set(
        nodes
    )
    assert list(nodes["blocks/1/0/linear"].input) == ["add", "blocks/1/0/weight", "blocks/1/0/bias"]
    assert all(above in nodes for node in loaded.node for above in node.input)
    (shape,) = nodes["blocks/1/1/relu"].attr["_output_shapes"].list.shape
    assert [dim.size for dim in shape.dim] == [2, 4]
    assert nodes["offset"].op == "Parameter" and nodes["blocks/0/1/relu"].op == "aten.relu.default"
