"""The run in TensorBoard, with the network's graph."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils.tensorboard import SummaryWriter

from t2t_vit.errors import OutputError


class TensorBoard:
    """A tracker that writes event files into `folder`.

    Args:
        first_step: updates made before this run begins; what an earlier run in the same folder, or the part of this
            one that is done again, showed from here on, disappears from the charts.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        try:
            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else 0)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror}); set another summary_root_dir"
            ) from error
        self._others, threading.excepthook = threading.excepthook, self._thread_failed

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        self._writer.add_image(name, image, step)

    def graph(self, graph: GraphDef) -> None:
        """The network, for the tab Graphs."""
        writer = self._writer._get_file_writer()  # type: ignore[no-untyped-call]
        writer.add_event(Event(graph_def=graph.SerializeToString()))

    def close(self) -> None:
        self._writer.close()
        threading.excepthook = self._others

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """The writer's thread hands its failure to the next call here; printing it as well would look like a crash."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._others(failure)


def export_graph(model: nn.Module, images: Tensor) -> ExportedProgram:
    """The inference graph of `model` on `images` (B, C, H, W); its mode is restored."""
    was_training = model.training
    try:
        return torch.export.export(model.eval(), (images,))
    finally:
        model.train(was_training)


def graph_def(program: ExportedProgram) -> GraphDef:
    """One node for each operation, parameter and input; the modules are nested scopes, their names as in the weights.

    An operation of blocks.3.mlp.fc1 is called blocks/3/mlp/fc1/linear and knows the shape of its output.
    """
    nodes: dict[str, NodeDef] = {}
    names: dict[fx.Node, str] = {}
    held = _held(program)
    for node in program.graph.nodes:
        name = _unused(_name(node, held), nodes)
        names[node] = name
        inputs = [names[above] for above in node.all_input_nodes]
        nodes[name] = NodeDef(name=name, op=_operation(node, held), input=inputs, attr=_attributes(node))
    return GraphDef(node=list(nodes.values()), versions=VersionDef(producer=22))


def _held(program: ExportedProgram) -> dict[str, str]:
    """Placeholders that stand for parameters and buffers -> the names of these in the model."""
    signature = program.graph_signature
    constants = signature.inputs_to_lifted_tensor_constants
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **constants}


def _name(node: fx.Node, held: dict[str, str]) -> str:
    if node.op == "placeholder":
        return held.get(node.name, f"input/{node.name}").replace(".", "/")
    if node.op == "output":
        return "output"
    stack = list(node.meta.get("nn_module_stack", {}).values())
    scope = stack[-1][0].split(".") if stack else []
    return "/".join([*filter(None, scope), _short(node)])


def _short(node: fx.Node) -> str:
    """aten.linear.default -> linear."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _operation(node: fx.Node, held: dict[str, str]) -> str:
    if node.op == "placeholder":
        return "Parameter" if node.name in held else "Placeholder"
    return "Output" if node.op == "output" else str(node.target) if "." in str(node.target) else _short(node)


def _unused(name: str, taken: dict[str, NodeDef]) -> str:
    """`name`, or name_1, name_2, ... where it is taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _attributes(node: fx.Node) -> dict[str, AttrValue]:
    shapes = [_shape(value) for value in _tensors(node.meta.get("val"))]
    return {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=shapes))} if shapes else {}


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _shape(tensor: Tensor) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=int(size)) for size in tensor.shape])
